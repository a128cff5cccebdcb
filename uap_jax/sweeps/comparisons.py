"""Whether two methods differ in success: Table 5, and clip by clip."""

import itertools
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from uap_jax.sweeps.plan import Trial, facts_of
from uap_jax.sweeps.published import Published, published_cell

# Of each test clip whether the attack succeeded on it: "index", "success".
TEST_CLIPS = "test_clips.npz"
# What two trials have in common whose methods are compared.
_PAIRED_BY = (
    *("model", "dataset", "split", "scaling", "target", "attack_class", "seed"),
    *("num_attack_clips", "num_test_clips"),
)


def compare_methods(
    trials: Sequence[Trial],
    results: Mapping[str, dict[str, Any] | None],
    rows: Sequence[str],
    published: Published | None,
    workdir: Path,
) -> Iterator[dict[str, Any]]:
    """Yields a comparison of methods for each row, as `significance_table` takes."""
    methods = list(dict.fromkeys(trial.config["method"] for trial in trials))
    groups: dict[tuple[Any, ...], dict[tuple[Any, ...], dict[str, Trial]]] = {}
    for trial in trials:
        facts = facts_of(trial)
        same = tuple(facts.get(key) for key in _PAIRED_BY)
        group = groups.setdefault(tuple(facts.get(key) for key in rows), {})
        group.setdefault(same, {})[facts["method"]] = trial
    for key, pairs in groups.items():
        for one, other in itertools.combinations(methods, 2):
            planned = [
                (pair[one], pair[other])
                for pair in pairs.values()
                if one in pair and other in pair
            ]
            done = [
                pair for pair in planned if all(results[trial.id] for trial in pair)
            ]
            entry = dict(zip(rows, key, strict=True))
            entry |= {"num_done": len(done), "num_trials": len(planned)}
            if done:
                entry |= _compare(done, results, workdir)
            if published and published.cells and planned:
                targets = {pair[0].config["target"] for pair in planned}
                cell = published_cell(
                    published,
                    model=planned[0][0].config["model"],
                    target=None if targets == {None} else "mean",
                )
                entry["published_z"] = cell and cell.get("z")
            yield entry


def _compare(
    pairs: Sequence[tuple[Trial, Trial]],
    results: Mapping[str, dict[str, Any] | None],
    workdir: Path,
) -> dict[str, Any]:
    from uap_jax.evaluation.significance import mcnemar_exact, two_proportion_z

    def rate(side: int) -> float:
        found = [results[pair[side].id] for pair in pairs]
        return float(np.mean([result["test"]["asr"] for result in found if result]))

    lower = int(rate(1) < rate(0))
    low, high = rate(lower), rate(1 - lower)
    first = results[pairs[0][0].id]
    num_clips = first["test"]["num_clips"] if first else 0
    z, p_value = two_proportion_z(
        round(low * num_clips), num_clips, round(high * num_clips), num_clips
    )
    compared = {
        "lower": pairs[0][lower].config["method"],
        "higher": pairs[0][1 - lower].config["method"],
        "asr_lower": low,
        "asr_higher": high,
        "num_clips": num_clips,
        "z": z,
        "p_value": 2 * min(p_value, 1 - p_value),
    }
    lowers = _count_successes([pair[lower] for pair in pairs], workdir)
    highers = _count_successes([pair[1 - lower] for pair in pairs], workdir)
    if lowers and highers and np.array_equal(lowers[0], highers[0]):
        difference = lowers[1] - highers[1]
        only = int(np.sum(difference > 0)), int(np.sum(difference < 0))
        compared |= {
            "only_lower": only[0],
            "only_higher": only[1],
            "mcnemar_p_value": mcnemar_exact(*only),
        }
    return compared


def _count_successes(
    trials: Sequence[Trial], workdir: Path
) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns test clips, and in how many trials each was fooled, if that is known."""
    clips: np.ndarray | None = None
    total = np.zeros((), np.int64)
    for trial in trials:
        try:
            with np.load(trial.folder(workdir) / TEST_CLIPS) as stored:
                index, success = stored["index"], stored["success"]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return None
        if clips is not None and not np.array_equal(index, clips):
            return None
        clips, total = index, total + success
    return None if clips is None else (clips, total)
