"""The front of a run, evaluated: with the clip and, where asked for, at any moment."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from uap_jax import files
from uap_jax.attacks import Front, Perturbation, perturbation_waveform
from uap_jax.runs.evaluate import Evaluator

# What of a summary stands in result.json for each point of a front.
_TEST = ("asr", "asr_ci95", "snr_db", "snr_ac_db", "asr_waveform")


def evaluate_front(
    evaluate: Evaluator,
    front: Front | None,
    perturbation: Perturbation,
    workdir: Path,
) -> list[dict[str, Any]]:
    """Writes front.npz and evaluates each of its perturbations.

    front.npz holds `asr_levels` `[L]` and `values` `[L, P]` as perturbation.npy does,
    zero where a rate was not reached.

    Args:
        evaluate: Of the run.
        front: Of an attack's result, or None.
        perturbation: Of the same attack; its space, scaling and rate are the front's.
        workdir: Of the run.

    Returns:
        An entry for each success rate, the highest first, none without a front.
    """
    if front is None or len(front.asr_levels) < 2:
        return []
    asr_levels, values = np.asarray(front.asr_levels), np.asarray(front.values)
    files.write_arrays(workdir / "front.npz", asr_levels=asr_levels, values=values)
    entries: list[dict[str, Any]] = [
        {"asr_level": round(float(rate), 6)} for rate in asr_levels
    ]
    for index, point in _reached(front, perturbation):
        _, summary = evaluate(point, np.asarray(perturbation_waveform(point)))
        entries[index] |= {
            "norm": float(front.norm[index]),
            "train": {"asr": float(front.train_asr[index])},
            "test": {key: summary["test"][key] for key in _TEST},
            "control": summary["control"],
        }
    return entries


def evaluate_front_moments(
    evaluate: Evaluator,
    front: Front,
    perturbation: Perturbation,
    entries: Sequence[dict[str, Any]],
    moments_of_main: dict[str, Any],
) -> list[dict[str, Any]]:
    """Returns what each perturbation of a front does at any moment.

    Args:
        evaluate: Of the run.
        front: Of an attack's result.
        perturbation: Of the same attack.
        entries: Of `evaluate_front`.
        moments_of_main: What `perturbation` does at any moment.

    Returns:
        An entry for each of `entries`: "asr_level" and, where it was reached, "mean",
        "worst_decile" and "num_clips" of `evaluate_moments`; "snr_ac_db" on all test
        clips; and "control": a noise has the same rate at every moment.
    """
    told = [{"asr_level": entry["asr_level"]} for entry in entries]
    # One perturbation can be the quietest of several rates; the main one is known.
    known = {np.asarray(perturbation.value).tobytes(): moments_of_main}
    for index, point in _reached(front, perturbation):
        content = np.asarray(point.value).tobytes()
        if content not in known:
            known[content] = evaluate.moments(point)
        moments = known[content]
        told[index] |= {
            "snr_ac_db": entries[index]["test"]["snr_ac_db"],
            **{key: moments[key] for key in ("mean", "worst_decile", "num_clips")},
            "control": entries[index]["control"],
        }
    return told


def _reached(
    front: Front, perturbation: Perturbation
) -> Iterator[tuple[int, Perturbation]]:
    """Yields the perturbations of the success rates that were reached."""
    for index in np.flatnonzero(np.isfinite(front.norm)):
        value = front.values[index]
        yield int(index), dataclasses.replace(perturbation, value=value)
