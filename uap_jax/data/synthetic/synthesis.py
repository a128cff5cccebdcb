"""Oscillators, noise, resonances and envelopes, of which sounds are made."""

import numpy as np

SAMPLE_RATE_HZ = 16000
# A little longer than a clip, and quick to transform.
NUM_SAMPLES = 51_200

DURATION_S = NUM_SAMPLES / SAMPLE_RATE_HZ
TIME_S = np.arange(NUM_SAMPLES) / SAMPLE_RATE_HZ
_FREQUENCY_HZ = np.maximum(np.fft.rfftfreq(NUM_SAMPLES, 1 / SAMPLE_RATE_HZ), 20.0)
_OCTAVES = np.log2(_FREQUENCY_HZ)
# Room for the end of a sound that begins at the end.
_NUM_PADDED = 60_000
_NUM_TABLE = 4096
_MAX_HZ = 7500.0

Rng = np.random.Generator


def log_uniform(rng: Rng, low: float, high: float) -> float:
    """Draws a number whose logarithm is uniform."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def colored_noise(rng: Rng, gain: np.ndarray | float) -> np.ndarray:
    """Returns `[N]` noise of RMS 1 with a gain for each frequency, `[N // 2 + 1]`."""
    spectrum = rng.standard_normal(NUM_SAMPLES + 2).view(np.complex128)
    return unit(np.fft.irfft(spectrum * gain, NUM_SAMPLES))


def sloped(slope: float) -> np.ndarray:
    """Returns gains that follow a power of the frequency, `[N // 2 + 1]`."""
    return np.exp2(slope * (_OCTAVES - np.log2(1000)))


def wander(rng: Rng, rate_hz: float) -> np.ndarray:
    """Returns a curve `[N]` that moves about zero some times a second."""
    points = rng.standard_normal(int(DURATION_S * rate_hz) + 3)
    return np.interp(TIME_S * rate_hz + rng.random(), np.arange(len(points)), points)


def unit(sound: np.ndarray) -> np.ndarray:
    """Returns a sound with RMS 1; silence stays silence."""
    rms = np.sqrt(np.mean(np.square(sound)))
    return sound / rms if rms else sound


def band(center_hz: float, width_octaves: float) -> np.ndarray:
    """Returns gains of a band, 1 at its middle, `[N // 2 + 1]`."""
    return np.exp(-0.5 * ((_OCTAVES - np.log2(center_hz)) / width_octaves) ** 2)


def count_cycles(frequency_hz: np.ndarray | float) -> np.ndarray:
    """Returns the cycles that a frequency, `[N]` or constant, has gone through."""
    if np.ndim(frequency_hz) == 0:
        return frequency_hz * TIME_S
    return np.cumsum(frequency_hz) / SAMPLE_RATE_HZ


def oscillate(rng: Rng, partials: np.ndarray, cycles: np.ndarray) -> np.ndarray:
    """Returns a tone with these amplitudes of its harmonics."""
    spectrum = np.zeros(_NUM_TABLE // 2 + 1, np.complex128)
    phases = np.exp(2j * np.pi * rng.random(len(partials)))
    spectrum[1 : len(partials) + 1] = partials * phases
    table = np.fft.irfft(spectrum) * (_NUM_TABLE / 2)
    return table[(cycles * _NUM_TABLE).astype(np.int64) % _NUM_TABLE]


def rolled_off(
    source: Rng,
    base_hz: float,
    count: int,
    rolloff: tuple[float, float],
    *,
    peak_hz: tuple[float, float],
) -> np.ndarray:
    """Returns amplitudes of harmonics that fall, but for a peak."""
    harmonics = np.arange(1, count + 1)
    octaves = np.log2(harmonics * base_hz / log_uniform(source, *peak_hz))
    partials = source.uniform(0.3, 1, count) / harmonics ** source.uniform(*rolloff)
    partials *= 1 + 3 * np.exp(-2 * octaves**2)
    return partials * (harmonics * base_hz * 1.4 < _MAX_HZ)


def vowel(formants_hz: np.ndarray, pitch_hz: float) -> np.ndarray:
    """Returns amplitudes of harmonics under three resonances."""
    harmonics = np.arange(1, 25)
    octaves = np.log2(harmonics[:, None] * pitch_hz / formants_hz)
    peaks = np.exp(-0.5 * (octaves / 0.22) ** 2) * (1.0, 0.6, 0.3)
    return (0.05 + peaks.sum(axis=1)) / np.sqrt(harmonics)


def make_note(
    rng: Rng,
    frequency_hz: np.ndarray | float,
    length_s: float,
    partials: np.ndarray,
    *,
    noise: float = 0.0,
    plucked: bool = False,
) -> np.ndarray:
    """Returns one event; three frequencies are those at its start, middle and end."""
    length = max(int(length_s * SAMPLE_RATE_HZ), 200)
    place = np.linspace(0, 1, length)
    if np.ndim(frequency_hz):
        frequency_hz = np.interp(place, (0, 0.4, 1), frequency_hz)
    cycles = np.cumsum(np.broadcast_to(frequency_hz, (length,))) / SAMPLE_RATE_HZ
    harmonics = np.arange(1, len(partials) + 1)
    partials = partials * (harmonics * np.max(frequency_hz) < _MAX_HZ)
    tone = unit(oscillate(rng, partials, cycles))
    if noise:
        tone += noise * rng.standard_normal(length)
    attack = np.minimum(place * length_s / 0.012, 1)
    if plucked:
        return tone * attack * np.exp(-4 * place) * (1 - place)
    return tone * attack * np.minimum(4 * (1 - place), 1)


def add(sound: np.ndarray, event: np.ndarray, at_s: float) -> None:
    """Adds an event to a sound; what is outside is lost."""
    start = round(at_s * SAMPLE_RATE_HZ)
    first, last = max(start, 0), min(start + len(event), NUM_SAMPLES)
    if first < last:
        sound[first:last] += event[first - start : last - start]


def make_gate(
    start_s: float, length_s: float, attack_s: float, release_s: float
) -> np.ndarray:
    """Returns an envelope `[N]` that rises to 1 and falls to 0 again."""
    rise = (TIME_S - start_s) / attack_s
    fall = (start_s + length_s - TIME_S) / release_s
    return np.clip(np.minimum(rise, fall), 0, 1)


def bursts(
    rng: Rng,
    length_s: tuple[float, float],
    pause_s: tuple[float, float],
    *,
    attack_s: float,
) -> np.ndarray:
    """Returns on and off as 1 and 0 `[N]`, at least half a second of it on."""
    envelope = np.zeros(NUM_SAMPLES)
    at_s = rng.uniform(-2, 0.8)
    while at_s < DURATION_S:
        on_s = rng.uniform(*length_s)
        envelope = np.maximum(envelope, make_gate(at_s, on_s, attack_s, 0.08))
        at_s += on_s + rng.uniform(*pause_s)
    if np.mean(envelope) * DURATION_S < 0.5:
        return np.ones(NUM_SAMPLES)
    return envelope


def regular_times(
    rng: Rng, rate_hz: float, roughness: float, drift: float
) -> np.ndarray:
    """Returns times of a beat, not quite regular, that slowly changes its pace."""
    rate = rate_hz * (1 + drift * wander(rng, 1))
    cycles = count_cycles(np.maximum(rate, 0.3 * rate_hz)) + rng.random()
    beats = np.arange(1, int(cycles[-1]))
    times_s = np.interp(beats, cycles, TIME_S)
    return times_s + rng.standard_normal(len(beats)) * roughness / rate_hz


def damped(
    source: Rng,
    count: int,
    frequency_hz: tuple[float, float],
    decay_s: tuple[float, float],
    *,
    noise: float,
) -> np.ndarray:
    """Returns the sound of one blow: resonances and noise that die away."""
    time_s = TIME_S[:5000]
    kernel = np.zeros(len(time_s))
    for _ in range(count):
        angle = 2 * np.pi * log_uniform(source, *frequency_hz) * time_s
        fading = np.exp(-time_s / log_uniform(source, *decay_s))
        kernel += source.uniform(0.2, 1) * np.sin(angle) * fading
    burst = source.standard_normal(len(time_s))
    kernel += noise * burst * np.exp(-time_s / log_uniform(source, *decay_s))
    return kernel * np.linspace(1, 0, len(time_s))


def strike(times_s: np.ndarray, gains: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Returns the sum of a blow's sound at these times."""
    train = np.zeros(_NUM_PADDED)
    places = np.rint(times_s * SAMPLE_RATE_HZ).astype(np.int64)
    inside = (places >= 0) & (places < NUM_SAMPLES)
    np.add.at(train, places[inside], gains[inside])
    spectrum = np.fft.rfft(train) * np.fft.rfft(kernel, _NUM_PADDED)
    return np.fft.irfft(spectrum, _NUM_PADDED)[:NUM_SAMPLES]
