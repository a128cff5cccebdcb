"""What of a result is not finite: how many, and what is said of it."""

from collections.abc import Mapping
from typing import Any

# Where result.json counts clips whose logits are not finite, and words for them.
_COUNTS = {
    ("train", "num_non_finite"): "attack clips",
    ("test", "num_non_finite_clean"): "clean test clips",
    ("test", "num_non_finite"): "with the perturbation",
    ("test", "num_non_finite_waveform"): "as one sound",
    ("test", "num_non_finite_shifted"): "shifted",
    ("control", "num_non_finite"): "with white noise",
    ("control", "same_spectrum", "num_non_finite"): "with noise of the same spectrum",
    ("unlabelled", "num_non_finite"): "clips without labels",
}


def non_finite_logits(result: Mapping[str, Any]) -> str:
    """Returns a line on logits that are not finite; empty where all are."""
    counts = {words: _count(result, *path) for path, words in _COUNTS.items()}
    said = ", ".join(f"{count} {words}" for words, count in counts.items() if count)
    return f"logits that are not finite, never a success: {said}" if said else ""


def left_out_clips(result: Mapping[str, Any]) -> str:
    """Returns a line on attack clips that steps left out; empty where none was."""
    count = _count(result, "train", "num_left_out")
    if not count:
        return ""
    train = result["train"]
    names = [str(name) for name in train.get("left_out") or []]
    more = ", ..." if count > len(names) else ""
    return (
        f"left out of steps, as the loss or its gradient was not finite: {count} of "
        f"{train['num_clips']} attack clips ({', '.join(names)}{more})"
    )


def _count(result: Any, *path: str) -> int:
    """Returns a number of result.json, 0 where an earlier release has none."""
    for key in path:
        result = result.get(key) if isinstance(result, Mapping) else None
    return result if isinstance(result, int) else 0
