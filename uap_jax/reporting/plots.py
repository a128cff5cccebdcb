"""Figures of a run: curves, and panels of waveform and log-mel spectrogram."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from uap_jax.audio import files
from uap_jax.reporting import svg

# Quantities that have a name in words; others are drawn under their own.
_LABELS = {
    "asr": "success on the attack clips (%)",
    "spl_db": "level of the perturbation (dB)",
    "objective": "objective",
    "hinge": "hinge",
    "linf": "largest sample of v",
    "l2": "l2 norm of v",
    "visited": "clips visited by DDN",
    "skipped": "clips skipped, fooled already",
    "failed": "clips for which DDN found nothing",
    "seconds": "seconds",
}
_MAX_COLUMNS = 300
_FREQUENCY_TICKS_HZ = (100, 500, 1000, 2000, 4000, 8000, 16000)
_RANGE_DB = 80.0


def pass_curves(
    passes: Sequence[Mapping[str, Any]], *, target_asr: float | None = None
) -> list[dict[str, Any]]:
    """Draws each quantity that is finite in some pass.

    Args:
        passes: One mapping per pass: "pass", and quantities under any other name.
        target_asr: The success rate to mark in the curve of "asr", if any.

    Returns:
        For each quantity its name, its label, `main` (whether it is one of the two to
        look at first) and its `svg`.
    """
    numbers = [line.get("pass", index) for index, line in enumerate(passes, 1)]
    present = [key for line in passes for key in line if key != "pass"]
    curves = []
    for name in dict.fromkeys([*_LABELS, *present]):
        values = _as_floats([line.get(name) for line in passes])
        finite = values[np.isfinite(values)]
        if not len(finite):
            continue
        label = _LABELS.get(name, name)
        drawn = curve_svg(
            _as_floats(numbers),
            values,
            alt=f"Curve over the passes: {label}, from {finite[0]:.4g} to "
            f"{finite[-1]:.4g}",
            share=name == "asr",
            goal=target_asr if name == "asr" else None,
        )
        main = name in ("asr", "spl_db")
        curves.append({"name": name, "label": label, "main": main, "svg": drawn})
    return curves


def curve_svg(
    x: np.ndarray,
    y: np.ndarray,
    *,
    alt: str,
    share: bool = False,
    goal: float | None = None,
) -> str:
    """Draws one quantity per pass.

    Args:
        x: `[P]` numbers of the passes.
        y: `[P]` values; gaps where they are not finite.
        alt: What the figure shows, for those who do not see it.
        share: Whether `y` is a share in [0, 1], drawn in per cent.
        goal: A value to mark with a dashed line.

    Returns:
        An `<svg>` element.
    """
    from matplotlib import ticker
    from matplotlib.figure import Figure

    scale = 100.0 if share else 1.0
    values = y * scale
    values[~np.isfinite(values)] = np.nan
    with svg.style(alt):
        figure = Figure(figsize=(4.6, 2.5), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(
            x,
            values,
            color=svg.SERIES[0],
            linewidth=1.8,
            marker="o" if len(values) <= 30 else "",
            markersize=3.5,
        )
        if goal is not None:
            axes.axhline(goal * scale, color=svg.INK, linewidth=1, linestyle="--")
            # At the left, since a curve that nears its goal does so at the right.
            axes.annotate(
                f"goal {goal * scale:g}",
                (0.01, goal * scale),
                xycoords=("axes fraction", "data"),
                xytext=(0, 3),
                textcoords="offset points",
            )
        if share:
            axes.set_ylim(-2, 104)
        axes.set_xlabel("pass")
        axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(True)
        return svg.to_svg(figure, alt)


def bank_svg(edges_hz: np.ndarray, initial_edges_hz: np.ndarray, *, alt: str) -> str:
    """Draws the pass bands of a learned filter bank over those it began with.

    Args:
        edges_hz: `[F, 2]` lower and upper edge of each filter.
        initial_edges_hz: `[F, 2]` the same before training.
        alt: What the figure shows, for those who do not see it.

    Returns:
        An `<svg>` element.
    """
    from matplotlib.figure import Figure

    with svg.style(alt):
        figure = Figure(figsize=(9.2, 2.8), layout="constrained")
        axes = figure.add_subplot()
        places = np.arange(1, len(edges_hz) + 1)
        bands = ((initial_edges_hz, svg.LINE, 3.2), (edges_hz, svg.SERIES[0], 1.4))
        for (low, high), color, width in ((b.T, *rest) for b, *rest in bands):
            axes.vlines(places, low / 1e3, high / 1e3, color=color, linewidth=width)
        axes.set_xlabel("filter")
        axes.set_ylabel("pass band (kHz)")
        axes.grid(True, axis="y")
        return svg.to_svg(figure, alt)


def panel_svg(
    waveform: np.ndarray,
    *,
    sample_rate_hz: int,
    peak: float,
    ceiling_db: float,
    alt: str,
) -> str:
    """Draws a waveform above its log-mel spectrogram, on one time axis.

    Args:
        waveform: `[N]` samples.
        sample_rate_hz: Samples per second.
        peak: The waveform's axis just holds -peak to peak; 0 counts as 1.
        ceiling_db: The level of the brightest colour; the darkest is 80 dB below.
        alt: What the figure shows, for those who do not see it.

    Returns:
        An `<svg>` element; the spectrogram in it is a PNG.
    """
    import matplotlib
    from matplotlib.figure import Figure

    duration_s = len(waveform) / sample_rate_hz
    times_s, low, high = _envelope(waveform, sample_rate_hz)
    spectrogram = _fewer_columns(log_mel_db(waveform, sample_rate_hz))
    with svg.style(alt):
        figure = Figure(figsize=(4.2, 3.0), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 3))
        above.fill_between(times_s, low, high, color=svg.SERIES[0], linewidth=0.6)
        limit = 1.05 * peak or 1.0
        above.set_ylim(-limit, limit)
        above.set_ylabel("amplitude")
        above.grid(True)
        below.imshow(
            spectrogram,
            origin="lower",
            aspect="auto",
            interpolation="none",
            extent=(0, duration_s, 0, len(spectrogram)),
            vmin=ceiling_db - _RANGE_DB,
            vmax=ceiling_db,
            # Steps of 1.25 dB: noise in 256 colours takes half as much space again.
            cmap=matplotlib.colormaps["magma"].resampled(64),
        )
        positions, labels = _frequency_ticks(len(spectrogram), sample_rate_hz)
        below.set_yticks(positions, labels)
        below.set_ylabel("kHz (mel scale)")
        below.set_xlabel("seconds")
        below.set_xlim(0, duration_s)
        return svg.to_svg(figure, alt)


def log_mel_db(waveform: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """Returns the `[num_mels, frames]` spectrogram that the panels show, in dB."""
    return np.asarray(
        files.mel_spectrogram_db(
            np.asarray(waveform, np.float32), sample_rate_hz=sample_rate_hz
        )
    )


def _as_floats(values: Sequence[Any]) -> np.ndarray:
    """The numbers among the values; NaN for anything else."""
    return np.array(
        [value if isinstance(value, int | float) else np.nan for value in values], float
    )


def _envelope(
    waveform: np.ndarray, sample_rate_hz: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times, lowest and highest sample of each of at most 300 columns."""
    starts = np.linspace(
        0, len(waveform), min(len(waveform), _MAX_COLUMNS), endpoint=False
    ).astype(int)
    # Each column takes in the first sample of the next, or steep slopes leave gaps.
    ends = np.append(starts[1:] + 1, len(waveform))
    columns = [waveform[a:b] for a, b in zip(starts, ends, strict=True)]
    low = np.array([column.min() for column in columns])
    high = np.array([column.max() for column in columns])
    return starts / sample_rate_hz, low, high


def _fewer_columns(spectrogram_db: np.ndarray) -> np.ndarray:
    """Means of the power of neighbouring frames, so that a page stays small."""
    step = -(-spectrogram_db.shape[1] // _MAX_COLUMNS)
    if step <= 1:
        return spectrogram_db
    starts = np.arange(0, spectrogram_db.shape[1], step)
    widths = np.diff(np.append(starts, spectrogram_db.shape[1]))
    power = np.add.reduceat(10 ** (spectrogram_db / 10), starts, axis=1) / widths
    return 10 * np.log10(np.maximum(power, 1e-30))


def _frequency_ticks(
    num_mels: int, sample_rate_hz: int
) -> tuple[np.ndarray, list[str]]:
    import librosa

    ticks_hz = [tick for tick in _FREQUENCY_TICKS_HZ if tick <= sample_rate_hz / 2]
    centres_hz = librosa.mel_frequencies(num_mels + 2, fmin=0, fmax=sample_rate_hz / 2)
    positions = np.interp(ticks_hz, centres_hz[1:-1], np.arange(num_mels) + 0.5)
    return positions, [f"{tick / 1000:g}" for tick in ticks_hz]
