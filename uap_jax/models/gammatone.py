"""The gammatone filter bank of 1D CNN Gamma, from its closed form."""

import numpy as np

# Quality and smallest bandwidth (Hz) of the auditory filters of Glasberg and Moore.
EAR_QUALITY = 9.26449
MIN_BANDWIDTH_HZ = 24.7


def centre_frequencies_hz(
    num_filters: int = 64, *, low_hz: float = 100.0, high_hz: float = 8_000.0
) -> np.ndarray:
    """Returns centre frequencies evenly spaced in equivalent rectangular bandwidths.

    `f_i = -QB + (high + QB) exp(i / n ln((low + QB) / (high + QB)))`, i = n, ..., 1.

    Returns:
        `[n]` float64, ascending, from `low_hz` up to one step below `high_hz`.

    Source: Slaney, "An Efficient Implementation of the Patterson-Holdsworth Auditory
    Filter Bank", Apple technical report 35, 1993.
    """
    offset = EAR_QUALITY * MIN_BANDWIDTH_HZ
    share = np.arange(num_filters, 0, -1) / num_filters
    ratio = (low_hz + offset) / (high_hz + offset)
    return (high_hz + offset) * ratio**share - offset


def gammatone_sections(
    frequency_hz: float, *, sample_rate_hz: int = 16_000
) -> np.ndarray:
    """Returns a gammatone filter as second-order sections of unit gain at its centre.

    With `T = 1 / sample rate`, `w = 2 pi f T` and `b = 1.019 2 pi (f / Q + B)`, the
    four sections share the denominator `1 - 2 cos(w) e^(-bT) z^-1 + e^(-2bT) z^-2` and
    have the numerators `1 - e^(-bT) (cos(w) +- sqrt(3 +- 2^1.5) sin(w)) z^-1`.

    Returns:
        `[4, 6]` float64, as `scipy.signal.sosfilt` takes them.
    """
    bandwidth_hz = frequency_hz / EAR_QUALITY + MIN_BANDWIDTH_HZ
    angle = 2 * np.pi * frequency_hz / sample_rate_hz
    decay = np.exp(-1.019 * 2 * np.pi * bandwidth_hz / sample_rate_hz)
    factors = [
        sign * np.sqrt(3 + inner * 2**1.5) for inner in (1, -1) for sign in (1, -1)
    ]
    zeros = [decay * (np.cos(angle) + factor * np.sin(angle)) for factor in factors]
    denominator = [1.0, -2 * np.cos(angle) * decay, decay**2]
    delay = np.exp(-1j * angle) ** np.arange(3)
    sections = []
    for zero in zeros:
        numerator = np.array([1.0, -zero, 0.0])
        gain = abs((numerator @ delay) / (denominator @ delay))
        sections.append([*(numerator / gain), *denominator])
    return np.array(sections)


def gammatone_bank(
    num_filters: int = 64, *, num_taps: int = 512, sample_rate_hz: int = 16_000
) -> np.ndarray:
    """Returns the first samples of the impulse responses of all filters.

    In order of time, to be correlated with a signal as the published network does: the
    responses are not reversed.

    Returns:
        `[num_taps, num_filters]` float64, from 100 Hz up to one step below 8 kHz.
    """
    # One network needs it, and it takes as long to import as all else here.
    from scipy.signal import sosfilt

    impulse = np.zeros(num_taps)
    impulse[0] = 1.0
    return np.stack(
        [
            sosfilt(gammatone_sections(f, sample_rate_hz=sample_rate_hz), impulse)
            for f in centre_frequencies_hz(num_filters)
        ],
        axis=1,
    )
