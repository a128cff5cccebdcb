"""How often a detector errs: false alarms, misses, and which way a sound turns it."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from uap_jax.evaluation.intervals import wilson_interval

# What a detector hears, by the columns of `Evaluation`, and words for it.
HEARD = {
    "clean": "clean clips",
    "perturbed": "with the sound",
    "waveform": "with perturbation.wav",
    "shifted": "with it shifted",
    "control": "with white noise",
    "same_spectrum": "with noise of the same spectrum",
}


def counted(clean: np.ndarray, target: int | None) -> np.ndarray:
    """Returns the clips `[M]` on which a detector can be made to err: a mask.

    Args:
        clean: `[M]` states of the clean clips; -1 where they are not known.
        target: The state that is wanted: those count that are in the other one. None:
            all count.
    """
    return np.ones_like(clean, bool) if target is None else clean == 1 - target


def detection_rates(evaluation: Any) -> dict[str, Any]:
    """Returns the errors of a detector on each of `HEARD`.

    A rate has "rate", "ci95" (Wilson) and "num_clips", of which it is the share; it is
    None of no clips.

        miss_rate: of the clips that hold the label, those where it does not fire.
        false_alarm_rate: of the others, those where it does.
        turned_off: of the clips where it fires on the clean clip, those where it no
            longer does.
        turned_on: of those where it does not, those where it now does.

    Where logits are not finite the state is not known, which is none of the four.

    Args:
        evaluation: An `Evaluation` of labels 0 and 1.
    """
    labels, clean = evaluation.labels, evaluation.clean
    groups = {
        "miss_rate": (labels == 1, 0),
        "false_alarm_rate": (labels == 0, 1),
        "turned_off": (clean == 1, 0),
        "turned_on": (clean == 0, 1),
    }
    return {
        heard: {
            name: _share(getattr(evaluation, heard)[group] == state)
            for name, (group, state) in groups.items()
            if heard != "clean" or name.endswith("_rate")
        }
        for heard in HEARD
    }


def describe_detection(result: Mapping[str, Any]) -> list[str]:
    """Returns lines on a detector's errors, none of a classifier.

    Args:
        result: As of `summarize`.
    """
    rates = result.get("detection")
    if not rates:
        return []
    lines = []
    for name, words in (("miss_rate", "misses"), ("false_alarm_rate", "false alarms")):
        said = [
            f"{_describe(rates[heard][name])} {HEARD[heard]}"
            for heard in HEARD
            if heard != "shifted"
        ]
        total = rates["clean"][name]["num_clips"]
        if total:
            lines.append(
                f'{words} of "{rates["label"]}", {total} clips: ' + ", ".join(said)
            )
    turned = rates["perturbed"]
    lines.append(
        f"the sound turns it off in {_describe(turned['turned_off'])} of "
        f"{turned['turned_off']['num_clips']} clips, on in "
        f"{_describe(turned['turned_on'])} of {turned['turned_on']['num_clips']}"
    )
    return lines


def _describe(share: Mapping[str, Any]) -> str:
    if share["rate"] is None:
        return "none"
    low, high = share["ci95"]
    return f"{share['rate']:.3f} [{low:.3f}, {high:.3f}]"


def _share(hits: np.ndarray) -> dict[str, Any]:
    count, total = int(np.sum(hits)), len(hits)
    return {
        "rate": count / total if total else None,
        "ci95": list(wilson_interval(count, total)),
        "num_clips": total,
    }
