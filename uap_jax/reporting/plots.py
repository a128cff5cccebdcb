"""Figures of a run: curves over the passes, waveforms, spectrograms, filter banks."""

from collections.abc import Mapping, Sequence
from typing import Any

import librosa
import matplotlib
import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure

from uap_jax.audio.spectrogram import mel_spectrogram_db
from uap_jax.reporting import svg

# Quantities with a name in words, in the order of the page; others follow.
_LABELS = {
    "asr": "success on the attack clips (%)",
    "spl_db": "level of the perturbation (dB)",
    "objective": "objective",
    "hinge": "hinge",
    "linf": "largest sample of v",
    "l2": "l2 norm of v",
    "visited": "clips visited by DDN",
    "skipped": "clips skipped (already fooled)",
    "failed": "clips where DDN failed",
    "seconds": "seconds",
}
_MAX_COLUMNS = 300
_FREQUENCY_TICKS_HZ = (100, 500, 1000, 2000, 4000, 8000, 16000)
RANGE_DB = 80.0


def pass_curves(
    passes: Sequence[Mapping[str, Any]], *, target_asr: float | None = None
) -> list[dict[str, Any]]:
    """Draws every quantity that is finite in some pass.

    Args:
        passes: One mapping per pass: "pass", and quantities under any other name.
        target_asr: The success rate to mark in the curve of "asr", if any.

    Returns:
        For each quantity `name`, `label`, `drawing`, and `main`: whether it is one of
        the two to look at first.
    """
    numbers = [line.get("pass", index) for index, line in enumerate(passes, 1)]
    present = [key for line in passes for key in line if key != "pass"]
    curves = []
    for name in dict.fromkeys([*_LABELS, *present]):
        values = svg.as_floats([line.get(name) for line in passes])
        if not np.any(np.isfinite(values)):
            continue
        label, is_asr = _LABELS.get(name, name), name == "asr"
        goal = 100 * target_asr if is_asr and target_asr is not None else None
        drawing = _draw_curve(
            svg.as_floats(numbers), values * (100 if is_asr else 1), label, goal
        )
        main = name in ("asr", "spl_db")
        curves.append({"name": name, "label": label, "main": main, "drawing": drawing})
    return curves


def _draw_curve(
    numbers: np.ndarray, values: np.ndarray, label: str, goal: float | None
) -> svg.Drawing:
    finite = values[np.isfinite(values)]
    alt = f"Curve over the passes: {label}, from {finite[0]:.4g} to {finite[-1]:.4g}"
    with svg.style():
        figure = Figure(figsize=(4.6, 2.5), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(
            numbers,
            values,
            color=svg.SERIES[0],
            linewidth=1.8,
            marker="o" if len(values) <= 30 else "",
            markersize=3.5,
        )
        if goal is not None:
            axes.axhline(goal, color=svg.INK, linewidth=1, linestyle="--")
            # On the left, since a curve that nears its goal does so on the right.
            axes.annotate(
                f"goal {goal:g}",
                (0.01, goal),
                xycoords=("axes fraction", "data"),
                xytext=(0, 3),
                textcoords="offset points",
            )
        if label.endswith("(%)"):
            axes.set_ylim(-2, 104)
        axes.set_xlabel("pass")
        axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(True)
        return svg.draw(figure, alt)


def draw_moments(
    offsets_s: Sequence[float],
    asr: Sequence[float],
    *,
    worst_decile: float,
    controls: Mapping[str, float],
) -> svg.Drawing:
    """Draws the success rate along the offset of the looped sound.

    Args:
        offsets_s: `[K]` seconds that the sound began before the clip.
        asr: `[K]` success rates in [0, 1].
        worst_decile: The rate that a tenth of the offsets do not exceed.
        controls: Rates of noise at any moment, by what it is.
    """
    seconds, percent = np.asarray(offsets_s), 100 * np.asarray(asr)
    levels = ", ".join(f"{name} {100 * rate:.0f} %" for name, rate in controls.items())
    alt = (
        f"Success rate at {len(percent)} offsets of the looped sound, from "
        f"{percent.min():.0f} to {percent.max():.0f} %, mean {percent.mean():.0f} %, "
        f"worst decile {100 * worst_decile:.0f} %; {levels}"
    )
    worst = percent <= 100 * worst_decile + 1e-9
    with svg.style():
        figure = Figure(figsize=(6.4, 3.2), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(seconds, percent, color=svg.SERIES[0], linewidth=1.4, label="sound")
        axes.plot(
            *(seconds[worst], percent[worst]),
            **{"color": svg.SERIES[1], "linestyle": "", "marker": "o"},
            markersize=3.5,
            label="its worst tenth",
        )
        mean = float(np.mean(percent))
        axes.axhline(mean, color=svg.INK, linewidth=1, linestyle="--", label="mean")
        for (name, rate), dashes in zip(
            controls.items(), svg.CONTROL_DASHES, strict=False
        ):
            axes.axhline(
                100 * rate, color=svg.INK, linewidth=1, linestyle=dashes, label=name
            )
        axes.set_ylim(-2, 104)
        axes.set_xlabel("the sound began so many seconds before the clip")
        axes.set_ylabel("success (%)")
        axes.grid(True)
        figure.legend(loc="outside upper left", ncols=3, frameon=False)
        return svg.draw(figure, alt)


def draw_bank(edges_hz: np.ndarray, initial_edges_hz: np.ndarray) -> svg.Drawing:
    """Draws the pass bands of a learned filter bank over the initial ones.

    Args:
        edges_hz: `[F, 2]` lower and upper edge of each filter, in Hz.
        initial_edges_hz: `[F, 2]` the same before training.
    """
    low, high = edges_hz.T
    alt = (
        f"Pass bands of {len(low)} learned filters, lower edges from {low.min():.0f} "
        f"to {low.max():.0f} Hz, median width {np.median(high - low):.0f} Hz"
    )
    with svg.style():
        figure = Figure(figsize=(9.2, 2.8), layout="constrained")
        axes = figure.add_subplot()
        filters = np.arange(1, len(low) + 1)
        for edges, color, width in (
            (initial_edges_hz, svg.LINE, 3.2),
            (edges_hz, svg.SERIES[0], 1.4),
        ):
            axes.vlines(filters, *edges.T / 1e3, color=color, linewidth=width)
        axes.set_xlabel("filter")
        axes.set_ylabel("pass band (kHz)")
        axes.grid(True, axis="y")
        return svg.draw(figure, alt)


def draw_sound(
    waveform: np.ndarray,
    *,
    sample_rate_hz: int,
    peak: float,
    ceiling_db: float,
    title: str,
) -> svg.Drawing:
    """Draws a waveform above its log-mel spectrogram, on one time axis.

    Args:
        waveform: `[N]` samples.
        sample_rate_hz: Samples per second.
        peak: The waveform's axis just holds -peak to peak; 0 counts as 1.
        ceiling_db: Level of the brightest colour; the darkest is `RANGE_DB` below.
        title: Description of the waveform, for the text alternative.
    """
    duration_s = len(waveform) / sample_rate_hz
    spectrogram = _fewer_columns(log_mel_db(waveform, sample_rate_hz))
    with svg.style():
        figure = Figure(figsize=(4.2, 3.0), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 3))
        above.fill_between(
            *_envelope(waveform, sample_rate_hz), color=svg.SERIES[0], linewidth=0.6
        )
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
            vmin=ceiling_db - RANGE_DB,
            vmax=ceiling_db,
            # Steps of 1.25 dB: noise in 256 colours takes half as much space again.
            cmap=matplotlib.colormaps["magma"].resampled(64),
        )
        below.set_yticks(*_frequency_ticks(len(spectrogram), sample_rate_hz))
        below.set_ylabel("kHz (mel scale)")
        below.set_xlabel("seconds")
        below.set_xlim(0, duration_s)
        return svg.draw(figure, f"Waveform and log-mel spectrogram: {title}")


def log_mel_db(waveform: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """Returns the `[num_mels, frames]` spectrogram that `draw_sound` shows, in dB."""
    spectrogram = mel_spectrogram_db(waveform, sample_rate_hz=sample_rate_hz)
    return np.asarray(spectrogram)


def _envelope(
    waveform: np.ndarray, sample_rate_hz: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times, lowest and highest samples of at most 300 columns."""
    starts = np.linspace(
        0, len(waveform), min(len(waveform), _MAX_COLUMNS), endpoint=False
    ).astype(int)
    # A column includes the first sample of the next, or steep slopes leave gaps.
    ends = np.append(starts[1:] + 1, len(waveform))
    columns = [waveform[a:b] for a, b in zip(starts, ends, strict=True)]
    low = np.array([column.min() for column in columns])
    high = np.array([column.max() for column in columns])
    return starts / sample_rate_hz, low, high


def _fewer_columns(spectrogram_db: np.ndarray) -> np.ndarray:
    """Averages the power of neighbouring frames, so that a page stays small."""
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
    ticks_hz = [tick for tick in _FREQUENCY_TICKS_HZ if tick <= sample_rate_hz / 2]
    centres_hz = librosa.mel_frequencies(num_mels + 2, fmin=0, fmax=sample_rate_hz / 2)
    positions = np.interp(ticks_hz, centres_hz[1:-1], np.arange(num_mels) + 0.5)
    return positions, [f"{tick / 1000:g}" for tick in ticks_hz]
