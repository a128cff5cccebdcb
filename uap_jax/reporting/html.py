"""The page of one attack run: its success, its sound, how it was made."""

import dataclasses
import io
import json
import math
import os
import wave
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from uap_jax.audio import files
from uap_jax.evaluation import explain_success, left_out_clips, non_finite_logits
from uap_jax.evaluation.detection import HEARD
from uap_jax.files import flatten
from uap_jax.reporting import fronts, pages, plots
from uap_jax.text import (
    format_decibel,
    format_interval,
    format_number,
    format_percent,
    is_number,
)

_LISTENING_PEAK_DB = -1.0


@dataclasses.dataclass(frozen=True)
class Example:
    """One test clip before and after the perturbation.

    Attributes:
        name: Name of the clip.
        true_class: Its label.
        clean_prediction: Prediction of the model for the clean clip.
        perturbed_prediction: Prediction for the perturbed clip.
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


@dataclasses.dataclass(frozen=True)
class Arrival:
    """A recording with the sound as it arrives there after a channel.

    Attributes:
        how: What the channel did, in words.
        prediction: Prediction of the model.
        heard: `[N]` waveform of recording and sound in [-1, 1].
        sound: `[N]` the sound alone; None if it is the sound of the page, moved.
    """

    how: str
    prediction: str
    heard: np.ndarray
    sound: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class ReportData:
    """Content of a report; a number that is missing, None or NaN reads "n/a".

    Attributes:
        config: The content of `config.json`.
        result: The content of `result.json`.
        passes: The lines of `metrics.jsonl`: "pass" and any numbers.
        perturbation: `[N]` waveform of the single sound in [-1, 1].
        sample_rate_hz: Samples per second of all waveforms.
        examples: Clips to look at and to listen to.
        per_class: One mapping per class: class_name, num_clips, clean_accuracy, asr,
            accuracy_perturbed, control_asr, same_spectrum_asr.
        bank_edges_hz: `[F, 2]` band edges of the model's learned filters, or None.
        initial_bank_edges_hz: The same before training.
        arrivals: The first of `examples` with the sound after channels.
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
    arrivals: Sequence[Arrival] = ()


def write_report(path: str | os.PathLike[str], data: ReportData) -> None:
    """Writes one HTML file that needs no other file and no network, atomically.

    Args:
        path: Where to write; an existing file is replaced.
        data: The run; the same data gives the same bytes.
    """
    pages.write(path, render_report(data))


def render_report(data: ReportData) -> str:
    """Returns the page that `write_report` writes."""
    config, result, bank = data.config, data.result, None
    if data.bank_edges_hz is not None and data.initial_bank_edges_hz is not None:
        bank = plots.draw_bank(data.bank_edges_hz, data.initial_bank_edges_hz)
    target_asr = _target_asr(config)
    return pages.render(
        "report.html",
        result=result,
        headline=headline(result),
        explanation=explain_success(
            _section(result, "test"), _section(result, "control")
        ),
        convergence=_convergence(result, target_asr),
        not_finite=[
            f"{line[0].upper()}{line[1:]}."
            for line in (non_finite_logits(result), left_out_clips(result))
            if line
        ],
        sound=_sound(data.perturbation, data.sample_rate_hz),
        examples=[_example(example, data.sample_rate_hz) for example in data.examples],
        range_db=plots.RANGE_DB,
        curves=plots.pass_curves(data.passes, target_asr=target_asr),
        per_class=data.per_class,
        detection=_section(result, "detection"),
        heard=HEARD,
        front=_front(result),
        channels=_channels(data),
        bank=bank,
        settings=_rows({k: v for k, v in config.items() if k != "command"}),
        software=_rows(
            {**_section(result, "versions"), "hardware": result.get("hardware")}
        ),
        command=config.get("command"),
        **{n: _section(result, n) for n in ("train", "test", "control", "seconds")},
    )


def headline(result: Mapping[str, Any]) -> str:
    """Returns what the sound did to unseen clips, in one sentence."""
    test, control = _section(result, "test"), _section(result, "control")
    if not is_number(test.get("asr")):
        return "No success rate on unseen clips was measured."
    target, model = result.get("target"), result.get("model")
    label = _section(result, "detection").get("label")
    clips = f"{format_number(test.get('num_clips'))} unseen clips"
    effect = f'makes {model} say "{target}"'
    if target is None:
        effect = f"changes the answer of {model}"
    elif label is not None:
        verb, state = (
            ("hear", "it does not") if target == label else ("miss", "it does")
        )
        effect = f'makes {model} {verb} "{label}"'
        clips = (
            f"{format_number(test.get('num_counted'))} unseen clips where {state} "
            "without it"
        )
    snr_db = test.get("snr_ac_db")
    level = ""
    if is_number(snr_db):
        side = "below" if snr_db >= 0 else "above"
        level = f", {format_decibel(abs(snr_db))} {side} the clips,"
    same = _section(control, "same_spectrum")
    return (
        f"One sound{level} {effect} for {format_percent(test['asr'])} of "
        f"{clips} (95 % interval "
        f"{format_interval(test.get('asr_ci95'))}); white noise of the same level: "
        f"{format_percent(control.get('asr'))}, noise of the same spectrum: "
        f"{format_percent(same.get('asr'))}."
    )


def _convergence(result: Mapping[str, Any], target_asr: float | None) -> str:
    """Returns whether the attack reached its goal on its attack clips."""
    train, num_passes = _section(result, "train"), result.get("num_passes")
    goal = "its goal" + (f" of {format_percent(target_asr)}" if target_asr else "")
    reason = result.get("stop_reason")
    outcome = {
        None: f"Whether the attack reached {goal} is not recorded",
        True: f"The attack reached {goal}",
        False: f"The attack did not reach {goal}",
    }[result.get("converged")]
    return (
        f"{outcome}: {format_percent(train.get('asr'))} of "
        f"{format_number(train.get('num_clips'))} attack clips after "
        f"{format_number(num_passes)} pass{'' if num_passes == 1 else 'es'}."
        + (f" Reason for stopping: {reason}." if reason else "")
    )


def _sound(sound: np.ndarray, rate_hz: int) -> dict[str, Any]:
    """Returns the figure and players of the single sound."""
    peak_db, ceiling_db = _peak_db(sound), _ceiling_db(rate_hz, sound)
    return {
        **_panel("the sound", sound, rate_hz, _peak(sound), ceiling_db),
        "peak_db": peak_db,
        "is_silent": not math.isfinite(peak_db),
        "duration_s": len(sound) / rate_hz,
        "loud": _wav_uri(_amplify(sound), rate_hz),
        "gain_db": _gain_db(sound),
    }


def _example(example: Example, rate_hz: int) -> dict[str, Any]:
    """Returns the figures and players of a clip, of what was added, and of the sum."""
    added = example.perturbed - example.clean
    waveforms = {
        "clean": example.clean,
        "what was added": added,
        "perturbed": example.perturbed,
    }
    peak = max(map(_peak, waveforms.values()))
    ceiling_db = _ceiling_db(rate_hz, example.clean, example.perturbed)
    panels = [
        _panel(f"{example.name}, {title}", waveform, rate_hz, peak, ceiling_db)
        | {"caption": title}
        for title, waveform in waveforms.items()
    ]
    # What was added is too quiet to hear at its true level.
    panels[1] |= {
        "audio": _wav_uri(_amplify(added), rate_hz),
        "gain_db": _gain_db(added),
    }
    return {**vars(example), "panels": panels}


def _panel(
    title: str, waveform: np.ndarray, rate_hz: int, peak: float, ceiling_db: float
) -> dict[str, Any]:
    drawing = plots.draw_sound(
        waveform,
        sample_rate_hz=rate_hz,
        peak=peak,
        ceiling_db=ceiling_db,
        title=title,
    )
    audio = _wav_uri(waveform, rate_hz)
    return {"title": title, "drawing": drawing, "audio": audio}


def _front(result: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the figure and rows of a front, if the run has one."""
    if not (entries := result.get("front")):
        return None
    points = fronts.points_of(str(result.get("method")), [result])
    drawing = fronts.draw_front([points], title="This run") if len(points.asr) else None
    return {"drawing": drawing, "entries": entries}


def _channels(data: ReportData) -> dict[str, Any] | None:
    """Returns the table after channels, its curve and its players, or None."""
    if not (table := data.result.get("channels")):
        return None
    moments, rate_hz = table["moments"], data.sample_rate_hz
    by_name = {row["channel"]: row["control"] for row in table["rows"]}
    control = by_name.get("any moment", {})
    rates = {
        "white noise": control.get("asr"),
        "noise of the same spectrum": _section(control, "same_spectrum").get("asr"),
    }
    drawing = plots.draw_moments(
        moments["offsets_s"],
        moments["asr"],
        worst_decile=moments["worst_decile"],
        controls={name: rate for name, rate in rates.items() if is_number(rate)},
    )
    arrivals = [
        {
            "how": arrival.how,
            "prediction": arrival.prediction,
            "heard": _wav_uri(arrival.heard, rate_hz),
            "sound": None
            if arrival.sound is None
            else _wav_uri(_amplify(arrival.sound), rate_hz),
        }
        for arrival in data.arrivals
    ]
    return {
        **table,
        "drawing": drawing,
        "made_for": data.result.get("channel"),
        "arrivals": arrivals,
        "example": data.examples[0] if data.examples else None,
    }


def _rows(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns nested settings as dotted name and text."""
    return [
        (name, v if isinstance(v, str) else json.dumps(v, ensure_ascii=False))
        for name, v in flatten(settings).items()
    ]


def _wav_uri(waveform: np.ndarray, sample_rate_hz: int) -> str:
    """Returns a data URI of the waveform as 16-bit PCM."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, sample_rate_hz, 0, "NONE", ""))
        file.writeframes(np.asarray(files.to_pcm16(waveform)).astype("<i2").tobytes())
    return pages.audio_uri(buffer.getvalue())


def _ceiling_db(sample_rate_hz: int, *waveforms: np.ndarray) -> float:
    """Returns the highest level in the spectrograms; 0 for silence, to show it dark."""
    audible = [waveform for waveform in waveforms if np.any(waveform)]
    levels = (plots.log_mel_db(waveform, sample_rate_hz) for waveform in audible)
    return max((float(np.max(level)) for level in levels), default=0.0)


def _peak(waveform: np.ndarray) -> float:
    return float(np.max(np.abs(waveform)))


def _peak_db(waveform: np.ndarray) -> float:
    return 20 * math.log10(_peak(waveform)) if np.any(waveform) else -math.inf


def _gain_db(waveform: np.ndarray) -> float:
    """Returns the gain that brings the peak to -1 dB of full scale; 0 for silence."""
    return _LISTENING_PEAK_DB - _peak_db(waveform) if np.any(waveform) else 0.0


def _amplify(waveform: np.ndarray) -> np.ndarray:
    gain = 10 ** (_gain_db(waveform) / 20)
    return (waveform.astype(np.float64) * gain).astype(np.float32)


def _section(result: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return result.get(name) or {}


def _target_asr(config: Mapping[str, Any]) -> float | None:
    """Returns the goal of the attack, from whatever section holds it."""
    for name, value in flatten(config).items():
        if name.rpartition(".")[2] == "target_asr" and is_number(value):
            return float(value)
    return None
