"""Methods compared trial by trial and clip by clip."""

import numpy as np
import pytest

from uap_jax.evaluation.significance import mcnemar_exact, two_proportion_z
from uap_jax.sweeps.published import Published
from uap_jax.sweeps.tables.comparisons import TEST_CLIPS, compare_methods
from uap_jax.sweeps.trials import Trial

NUM_CLIPS = 40


def make_trial(method, target, workdir, success=None):
    config = {"method": method, "target": target, "model": "cnn_rand", "seed": 0}
    trial = Trial(f"{method}-{target}", config, "")
    if success is not None:
        trial.folder(workdir).mkdir(parents=True)
        np.savez(
            trial.folder(workdir) / TEST_CLIPS,
            index=np.arange(NUM_CLIPS),
            success=success,
        )
    return trial


def result(success):
    return {"test": {"asr": float(np.mean(success)), "num_clips": NUM_CLIPS}}


def compare(trials, results, workdir, published=None):
    return list(compare_methods(trials, results, ["goal", "model"], published, workdir))


def test_one_pair_is_mcnemar(tmp_path):
    greedy = np.arange(NUM_CLIPS) < 20
    penalty = (np.arange(NUM_CLIPS) < 38) & (np.arange(NUM_CLIPS) > 3)
    trials = [
        make_trial("greedy", None, tmp_path, greedy),
        make_trial("penalty", None, tmp_path, penalty),
    ]
    results = {"greedy-None": result(greedy), "penalty-None": result(penalty)}
    published = Published(
        "5", cells=({"model": "cnn_rand", "target": None, "z": -9.0},)
    )
    (row,) = compare(trials, results, tmp_path, published)
    assert (row["goal"], row["model"]) == ("untargeted", "cnn_rand")
    assert (row["lower"], row["higher"]) == ("greedy", "penalty")
    assert (row["asr_lower"], row["asr_higher"]) == (0.5, 0.85)
    z, p_value = two_proportion_z(20, NUM_CLIPS, 34, NUM_CLIPS)
    assert row["z"] == z < 0
    assert row["p_value"] == pytest.approx(2 * p_value)
    assert (row["only_lower"], row["only_higher"]) == (4, 18)
    assert row["mcnemar_p_value"] == mcnemar_exact(4, 18)
    assert row["published_z"] == -9.0


def test_several_targets_count_each_clip_once(tmp_path):
    rng = np.random.default_rng(0)
    success = {
        (method, target): rng.random(NUM_CLIPS) < rate
        for method, rate in [("greedy", 0.9), ("penalty", 0.4)]
        for target in ("a", "b", "c")
    }
    trials = [make_trial(*key, tmp_path, value) for key, value in success.items()]
    results = {
        trial.id: result(success[trial.settings["method"], trial.settings["target"]])
        for trial in trials
    }
    (row,) = compare(trials, results, tmp_path)
    assert (row["num_done"], row["num_trials"]) == (3, 3)
    assert (row["lower"], row["higher"]) == ("penalty", "greedy")
    counts = [
        np.sum([success[method, target] for target in "abc"], axis=0)
        for method in ("penalty", "greedy")
    ]
    assert row["only_lower"] == np.sum(counts[0] > counts[1])
    assert row["only_higher"] == np.sum(counts[0] < counts[1])


def test_what_is_missing_is_left_out(tmp_path):
    fooled = np.ones(NUM_CLIPS, bool)
    trials = [
        make_trial("greedy", "a", tmp_path, fooled),
        make_trial("penalty", "a", tmp_path),
        make_trial("greedy", "b", tmp_path, fooled),
        make_trial("penalty", "b", tmp_path, fooled),
    ]
    results = {"greedy-a": result(fooled), "penalty-a": result(fooled)}
    results |= {"greedy-b": None, "penalty-b": result(fooled)}
    (row,) = compare(trials, results, tmp_path)
    assert (row["num_done"], row["num_trials"]) == (1, 2)
    assert (row["z"], row["p_value"]) == (0.0, 1.0)
    # No clips were stored for one of the pair.
    assert "mcnemar_p_value" not in row
    (row,) = compare(trials, dict.fromkeys(results), tmp_path)
    assert (row["num_done"], row.get("z")) == (0, None)


def test_other_clips_are_not_compared(tmp_path):
    fooled = np.ones(NUM_CLIPS, bool)
    trials = [make_trial(method, None, tmp_path, fooled) for method in "xy"]
    np.savez(
        trials[1].folder(tmp_path) / TEST_CLIPS,
        index=np.arange(NUM_CLIPS) + 1,
        success=fooled,
    )
    results = {trial.id: result(fooled) for trial in trials}
    (row,) = compare(trials, results, tmp_path)
    assert "mcnemar_p_value" not in row
