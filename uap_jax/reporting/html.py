"""The page of one attack run: what it reached, how it sounds, how it was made."""

import dataclasses
import io
import math
import os
import wave
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from uap_jax.audio import files
from uap_jax.reporting import pages, plots
from uap_jax.reporting.formats import (
    as_interval,
    as_rows,
    audio_uri,
    format_command,
    format_interval,
    format_number,
    format_percent,
    is_number,
    leaves,
)
from uap_jax.sweeps import fronts

_TEMPLATE = "report.html"
_LISTENING_PEAK_DB = -1.0


@dataclasses.dataclass(frozen=True)
class Example:
    """One test clip before and after the perturbation.

    Attributes:
        name: Identifies the clip.
        true_class: Its label.
        clean_prediction: The class that the model names for the clean clip.
        perturbed_prediction: The class that it names for the perturbed clip.
        clean: `[N]` waveform in [-1, 1].
        perturbed: `[N]` waveform in [-1, 1].
        snr_db: Signal-to-noise ratio with the resting level.
        snr_ac_db: Signal-to-noise ratio of the mean-free signals.
        relative_loudness_db: Peak of the perturbation relative to the clip's.
    """

    name: str
    true_class: str
    clean_prediction: str
    perturbed_prediction: str
    clean: np.ndarray
    perturbed: np.ndarray
    snr_db: float
    snr_ac_db: float
    relative_loudness_db: float

    def __post_init__(self) -> None:
        _check_waveform("clean", self.clean)
        _check_waveform("perturbed", self.perturbed)
        if len(self.clean) != len(self.perturbed):
            raise ValueError(
                f"perturbed: expected {len(self.clean)} samples as in clean, got "
                f"{len(self.perturbed)}"
            )


@dataclasses.dataclass(frozen=True)
class ReportData:
    """All that a report shows; a number that is missing, None or NaN reads "n/a".

    Attributes:
        config: The content of `config.json`.
        result: The content of `result.json`.
        passes: The lines of `metrics.jsonl`; "pass" and any numbers beside it.
        perturbation: `[N]` waveform of the single sound in [-1, 1].
        sample_rate_hz: Samples per second of all waveforms.
        examples: Clips to look at and to listen to.
        per_class: One mapping per class: class_name, num_clips, clean_accuracy, asr,
            accuracy_perturbed, control_asr.
        bank_edges_hz: `[F, 2]` band edges of the model's learned filters, or None.
        initial_bank_edges_hz: The same before training.
    """

    config: Mapping[str, Any]
    result: Mapping[str, Any]
    passes: Sequence[Mapping[str, float]]
    perturbation: np.ndarray
    sample_rate_hz: int
    examples: Sequence[Example]
    per_class: Sequence[Mapping[str, Any]]
    bank_edges_hz: np.ndarray | None = None
    initial_bank_edges_hz: np.ndarray | None = None

    def __post_init__(self) -> None:
        if (self.bank_edges_hz is None) != (self.initial_bank_edges_hz is None):
            raise ValueError(
                "initial_bank_edges_hz: expected it together with bank_edges_hz"
            )
        _check_waveform("perturbation", self.perturbation)
        if self.sample_rate_hz <= 0:
            raise ValueError(
                f"sample_rate_hz: expected a positive number, got {self.sample_rate_hz}"
            )


def write_report(path: str | os.PathLike[str], data: ReportData) -> None:
    """Writes one HTML file that needs no other file and no network.

    The same data gives the same bytes. The file appears whole or not at all.

    Args:
        path: Where to write; an existing file is replaced.
        data: The run.
    """
    pages.write(path, render_report(data))


def render_report(data: ReportData) -> str:
    """Returns the page that `write_report` writes."""
    result = data.result
    sections = {
        name: _section(result, name) for name in ("train", "test", "control", "seconds")
    }
    return pages.render(
        _TEMPLATE,
        result=result,
        headline=headline(result),
        doubt=_doubt(result),
        convergence=_convergence(data),
        sound=_sound(data),
        examples=[_example(example, data.sample_rate_hz) for example in data.examples],
        curves=plots.pass_curves(data.passes, target_asr=_target_asr(data.config)),
        per_class=data.per_class,
        front=_front(data),
        bank=_bank(data),
        settings=list(
            as_rows({k: v for k, v in data.config.items() if k != "command"})
        ),
        versions=list(as_rows(_section(result, "versions"))),
        hardware=list(as_rows({"hardware": result.get("hardware")})),
        command=format_command(data.config.get("command")),
        **sections,
    )


def _front(data: ReportData) -> dict[str, Any] | None:
    """Returns the figure and rows of a front, if the run found one."""
    entries = data.result.get("front")
    if not entries:
        return None
    points = fronts.points_of(str(data.result.get("method")), [data.result])
    drawn = fronts.front_svg(
        [points], level_label="SNR without the resting level (dB)", title="This run"
    )
    return {"svg": drawn if len(points.asr) else None, "entries": entries}


def _bank(data: ReportData) -> str | None:
    """The figure of a learned filter bank, if the model has one."""
    if data.bank_edges_hz is None or data.initial_bank_edges_hz is None:
        return None
    low, high = np.asarray(data.bank_edges_hz, np.float64).T
    return plots.bank_svg(
        np.stack([low, high], axis=1),
        np.asarray(data.initial_bank_edges_hz, np.float64),
        alt=f"Pass bands of {len(low)} learned filters, lower edges from "
        f"{low.min():.0f} to {low.max():.0f} Hz, median width "
        f"{np.median(high - low):.0f} Hz",
    )


def headline(result: Mapping[str, Any]) -> str:
    """Says in one sentence what the sound did to clips that it was not made from."""
    test, control = _section(result, "test"), _section(result, "control")
    if not is_number(test.get("asr")):
        return "No success rate on unseen clips was measured."
    target, model = result.get("target"), result.get("model")
    effect = f'makes {model} say "{target}"'
    if target is None:
        effect = f"changes the answer of {model}"
    interval = format_interval(test.get("asr_ci95"))
    return (
        f"One sound {effect} for {format_percent(test['asr'])} of "
        f"{format_number(test.get('num_clips'))} unseen clips (95 % interval "
        f"{interval}); random noise of the same level: "
        f"{format_percent(control.get('asr'))}."
    )


def _doubt(result: Mapping[str, Any]) -> str:
    """A warning where random noise does as well as the sound, as far as known."""
    test, control = _section(result, "test"), _section(result, "control")
    if not (is_number(test.get("asr")) and is_number(control.get("asr"))):
        return ""
    if test["asr"] <= control["asr"]:
        return "The sound does no better than random noise."
    ours = as_interval(test.get("asr_ci95"))
    theirs = as_interval(control.get("asr_ci95"))
    if ours and theirs and ours[0] <= theirs[1]:
        return "The 95 % intervals of the sound and of random noise overlap."
    return ""


def _convergence(data: ReportData) -> str:
    """Says whether the attack reached its goal on its own clips."""
    result, train = data.result, _section(data.result, "train")
    goal = _target_asr(data.config)
    goal_text = "" if goal is None else f" of {format_percent(goal)}"
    num_passes = result.get("num_passes")
    measured = (
        f"{format_percent(train.get('asr'))} of {format_number(train.get('num_clips'))}"
        f" attack clips after {format_number(num_passes)} "
        + ("pass" if num_passes == 1 else "passes")
    )
    if result.get("converged") is None:
        text = f"Whether the attack reached its goal{goal_text} is not recorded"
    elif result["converged"]:
        text = f"The attack reached its goal{goal_text}"
    else:
        text = f"The attack did not reach its goal{goal_text}"
    reason = result.get("stop_reason")
    return f"{text}: {measured}." + (
        f" Reason for stopping: {reason}." if reason else ""
    )


def _sound(data: ReportData) -> dict[str, Any]:
    """Panel and players of the single sound."""
    sound, rate_hz = np.asarray(data.perturbation, np.float32), data.sample_rate_hz
    panel = plots.panel_svg(
        sound,
        sample_rate_hz=rate_hz,
        peak=_peak(sound),
        ceiling_db=_ceiling_db((sound,), rate_hz),
        alt="Waveform and log-mel spectrogram of the sound",
    )
    return {
        "panel": panel,
        "silent": _peak(sound) == 0,
        "peak_db": _peak_db(sound),
        "duration_s": len(sound) / rate_hz,
        "true": _wav_uri(sound, rate_hz),
        "loud": _wav_uri(_amplify(sound), rate_hz),
        "gain_db": _gain_db(sound),
    }


def _example(example: Example, rate_hz: int) -> dict[str, Any]:
    """Panels and players of a clip, of what was added to it, and of the sum."""
    clean = np.asarray(example.clean, np.float32)
    perturbed = np.asarray(example.perturbed, np.float32)
    added = perturbed - clean
    peak = max(_peak(clean), _peak(added), _peak(perturbed))
    ceiling_db = _ceiling_db((clean, perturbed), rate_hz)
    panels = [
        {
            "title": title,
            "svg": plots.panel_svg(
                waveform,
                sample_rate_hz=rate_hz,
                peak=peak,
                ceiling_db=ceiling_db,
                alt=f"Waveform and log-mel spectrogram: {title}, {example.name}",
            ),
            "audio": _wav_uri(played, rate_hz),
            "gain_db": gain_db,
        }
        for title, waveform, played, gain_db in (
            ("clean", clean, clean, None),
            ("what was added", added, _amplify(added), _gain_db(added)),
            ("perturbed", perturbed, perturbed, None),
        )
    ]
    return {**vars(example), "panels": panels}


def _wav_uri(waveform: np.ndarray, sample_rate_hz: int) -> str:
    """A data URI of the waveform as 16-bit PCM."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate_hz)
        file.writeframes(np.asarray(files.to_pcm16(waveform)).astype("<i2").tobytes())
    return audio_uri(buffer.getvalue())


def _ceiling_db(waveforms: Sequence[np.ndarray], sample_rate_hz: int) -> float:
    """The highest level in the spectrograms; 0 for silence, to show it dark."""
    heard = [waveform for waveform in waveforms if _peak(waveform) > 0]
    levels = (plots.log_mel_db(waveform, sample_rate_hz) for waveform in heard)
    return max((float(np.max(level)) for level in levels), default=0.0)


def _peak(waveform: np.ndarray) -> float:
    return float(np.max(np.abs(waveform)))


def _peak_db(waveform: np.ndarray) -> float:
    peak = _peak(waveform)
    return 20 * math.log10(peak) if peak > 0 else -math.inf


def _gain_db(waveform: np.ndarray) -> float:
    """The gain that brings the peak to -1 dB of full scale; 0 for silence."""
    peak_db = _peak_db(waveform)
    return _LISTENING_PEAK_DB - peak_db if math.isfinite(peak_db) else 0.0


def _amplify(waveform: np.ndarray) -> np.ndarray:
    gain = 10 ** (_gain_db(waveform) / 20)
    return (waveform.astype(np.float64) * gain).astype(np.float32)


def _check_waveform(name: str, waveform: np.ndarray) -> None:
    if np.ndim(waveform) != 1 or not len(waveform):
        raise ValueError(
            f"{name}: expected [N] samples, got shape {np.shape(waveform)}"
        )
    if not np.isfinite(waveform).all():
        raise ValueError(f"{name}: expected finite samples, got NaN or infinity")


def _section(result: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = result.get(name)
    return section if isinstance(section, Mapping) else {}


def _target_asr(config: Mapping[str, Any]) -> float | None:
    """The goal of the attack, wherever the settings hold it."""
    for name, value in leaves(config):
        if name.rpartition(".")[2] == "target_asr" and is_number(value):
            return float(value)
    return None
