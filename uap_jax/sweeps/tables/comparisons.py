"""Whether two methods differ in success: Table 5, and clip by clip."""

import itertools
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from uap_jax.evaluation.significance import mcnemar_exact, two_proportion_z
from uap_jax.sweeps.published import Published, published_cell
from uap_jax.sweeps.trials import Trial

# Of each test clip whether the attack succeeded on it: "index", "success".
TEST_CLIPS = "test_clips.npz"
# What two trials share whose methods are compared.
_PAIRED_BY = (
    *("model", "dataset", "split", "scaling", "target", "attack_class", "seed"),
    *("num_attack_clips", "num_test_clips"),
)
# The content of each trial's result.json, by its id; None where it is not done.
Results = Mapping[str, dict[str, Any] | None]


def compare_methods(
    trials: Sequence[Trial],
    results: Results,
    rows: Sequence[str],
    published: Published | None,
    workdir: Path,
) -> Iterator[dict[str, Any]]:
    """Yields a row of `kinds.significance_table` for each two methods and `rows`.

    Without pairs of trials that are done there are only counts.
    """
    methods = list(dict.fromkeys(trial.settings["method"] for trial in trials))
    groups: dict[tuple[Any, ...], dict[tuple[Any, ...], dict[str, Trial]]] = {}
    for trial in trials:
        facts = trial.facts
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
            done = [pair for pair in planned if all(results[t.id] for t in pair)]
            entry = dict(zip(rows, key, strict=True))
            entry |= {"num_done": len(done), "num_trials": len(planned)}
            if done:
                entry |= _compare(done, results, workdir)
            if published and planned:
                targets = {pair[0].settings["target"] for pair in planned}
                cell = published_cell(
                    published,
                    model=planned[0][0].settings["model"],
                    target=None if targets == {None} else "mean",
                )
                entry["published_z"] = cell and cell.get("z")
            yield entry


def _compare(
    pairs: Sequence[tuple[Trial, Trial]], results: Results, workdir: Path
) -> dict[str, Any]:
    tests = [[(results[trial.id] or {})["test"] for trial in pair] for pair in pairs]
    rates = [float(np.mean([pair[side]["asr"] for pair in tests])) for side in (0, 1)]
    lower = int(rates[1] < rates[0])
    low, high = rates[lower], rates[1 - lower]
    num_clips = tests[0][0]["num_clips"]
    z, p_value = two_proportion_z(
        round(low * num_clips), num_clips, round(high * num_clips), num_clips
    )
    compared = {
        "lower": pairs[0][lower].settings["method"],
        "higher": pairs[0][1 - lower].settings["method"],
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
    """Returns the test clips, and in how many trials each was fooled, if stored."""
    clips, successes = [], []
    try:
        for trial in trials:
            with np.load(trial.folder(workdir) / TEST_CLIPS) as stored:
                clips.append(stored["index"])
                successes.append(stored["success"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    if not all(np.array_equal(index, clips[0]) for index in clips):
        return None
    return clips[0], np.asarray(successes).sum(axis=0)
