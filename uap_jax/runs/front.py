"""The front of success rate against level that the decoupled method finds."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from uap_jax import files
from uap_jax.attacks import Front, Perturbation, perturbation_waveform

# What of a summary, as of `judge.evaluate`, stands in result.json for each point.
_TEST = ("asr", "asr_ci95", "snr_db", "snr_ac_db", "asr_waveform")


def judge_front(
    front: Front | None,
    perturbation: Perturbation,
    workdir: Path,
    *,
    judge: Callable[[Perturbation, np.ndarray], dict[str, Any]],
) -> list[dict[str, Any]]:
    """Writes front.npz and judges each of its perturbations.

    front.npz holds `asr_levels` `[L]` and `values` `[L, N]` as perturbation.npy does,
    zero where a rate was not reached.

    Args:
        front: What an attack found, or None.
        perturbation: Of the same attack; its space, scaling and rate are the front's.
        workdir: Of the run.
        judge: A perturbation and its waveform to a summary, as of `judge.evaluate`.

    Returns:
        An entry for each success rate, the highest first, none without a front.
    """
    if front is None or len(front.asr_levels) < 2:
        return []
    asr_levels, values = np.asarray(front.asr_levels), np.asarray(front.values)
    files.write_arrays(workdir / "front.npz", asr_levels=asr_levels, values=values)
    entries = []
    for index, asr_level in enumerate(asr_levels):
        entry: dict[str, Any] = {"asr_level": float(asr_level)}
        if np.isfinite(front.norm[index]):
            found = dataclasses.replace(perturbation, value=front.values[index])
            summary = judge(found, np.asarray(perturbation_waveform(found)))
            entry |= {
                "norm": float(front.norm[index]),
                "train": {"asr": float(front.train_asr[index])},
                "test": {key: summary["test"][key] for key in _TEST},
                "control": summary["control"],
            }
        entries.append(entry)
    return entries
