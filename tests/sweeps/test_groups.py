"""Attacks of several trials in one program: files, cuts, who is left out."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from sweeps import MANIFEST, finish, plan_built_in
from toy_attacks import InterruptedError, make_problem, run, settings
from uap_jax.runs.beginning import Start

from uap_jax import attacks, files
from uap_jax.attacks.methods import METHODS
from uap_jax.console import Console
from uap_jax.errors import UsageError
from uap_jax.runs import attack, judge
from uap_jax.sweeps import groups, plan
from uap_jax.sweeps.shared import LOG, Context

TARGETS = (0, 1, 2)


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """What is tested here are states and files."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def problem():
    return make_problem()


def run_group(problem, folder, *, method, at_once=2):
    tasks = [
        attack.Task(
            settings(method=method),
            target,
            jax.random.key(7),
            folder / str(target),
            Console(),
        )
        for target in TARGETS
    ]
    return attack.run_attacks(tasks, *problem, at_once=at_once, save_every_s=0.0)


def assert_same(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module", params=METHODS)
def whole(request, problem, tmp_path_factory):
    """A method, what a group finds that nothing disturbs, and where."""
    folder = tmp_path_factory.mktemp("whole")
    return request.param, run_group(problem, folder, method=request.param), folder


def test_each_trial_leaves_what_it_leaves_alone(problem, whole, tmp_path):
    method, found, folder = whole
    alone = run(problem, tmp_path, method=method)
    together = found[TARGETS.index(1)]
    np.testing.assert_allclose(together.train_asr, alone.train_asr, atol=0.05)
    np.testing.assert_allclose(
        together.perturbation.value, alone.perturbation.value, rtol=1e-3, atol=1e-3
    )
    for target, result in zip(TARGETS, found, strict=True):
        lines = (folder / str(target) / "metrics.jsonl").read_text().splitlines()
        entries = [json.loads(line) for line in lines]
        assert [entry["pass"] for entry in entries] == [
            *range(1, 1 + int(result.num_passes))
        ]
        assert all(entry["seconds"] > 0 for entry in entries)
        assert entries[0].keys() == {
            *("pass", "seconds"),
            *alone.history,
        }


@pytest.mark.parametrize("num_segments", [1, 6])
def test_a_group_that_is_cut_goes_on(
    problem, whole, tmp_path, monkeypatch, num_segments
):
    method, expected, _ = whole
    calls = 0
    segment = attacks.together_segment

    def interrupted(*arguments, **named):
        nonlocal calls
        calls += 1
        if calls > num_segments:
            raise InterruptedError
        return segment(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(attacks, "together_segment", interrupted)
        with pytest.raises(InterruptedError):
            run_group(problem, tmp_path, method=method)
    for found, whole_one in zip(
        run_group(problem, tmp_path, method=method), expected, strict=True
    ):
        assert_same(found, whole_one)


def test_a_trial_of_a_group_that_was_cut_goes_on_alone(
    problem, tmp_path, monkeypatch, capsys
):
    segment = attacks.together_segment
    calls = 0

    def interrupted(*arguments, **named):
        nonlocal calls
        calls += 1
        if calls > 6:
            raise InterruptedError
        return segment(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(attacks, "together_segment", interrupted)
        with pytest.raises(InterruptedError):
            run_group(problem, tmp_path, method="penalty")
    capsys.readouterr()
    resumed = run(problem, tmp_path / "1")
    assert "going on after pass" in capsys.readouterr().out
    alone = run(problem, tmp_path / "alone")
    np.testing.assert_allclose(
        resumed.perturbation.value, alone.perturbation.value, rtol=1e-3, atol=1e-3
    )


def test_who_goes_together(tmp_path, write_manifest):
    planned = plan_built_in(write_manifest(MANIFEST), tmp_path)
    assert groups.grouped(planned, at_once=1) == [[trial] for trial in planned]
    assert groups.grouped(planned, at_once=None) == [[trial] for trial in planned]
    found = groups.grouped(planned, at_once=2)
    assert sorted(trial.id for group in found for trial in group) == sorted(
        trial.id for trial in planned
    )
    # Two values of kappa each; targeted and untargeted attacks are other programs.
    assert [len(group) for group in found] == [2, 2]
    for group in found:
        assert len({trial.config["target"] for trial in group}) == 1
    text = MANIFEST.replace("seed = 4", "seed = [4, 5]")
    other = plan_built_in(write_manifest(text), tmp_path)
    seeds = [{t.config["seed"] for t in g} for g in groups.grouped(other, at_once=8)]
    assert [len(each) for each in seeds] == [1, 1, 1, 1]


class FakeShared:
    """As `shared.Shared`, with the toy problem in place of corpus and model."""

    def __init__(self, problem, mistaken=()):
        self.clock = SimpleNamespace(seconds=0.0)
        self.compile_seconds = {}
        self._problem, self._mistaken = problem, mistaken

    def begin(self, trial, folder, console):
        if trial.id in self._mistaken:
            raise UsageError("--target: expected another")
        spec, variables, _, _ = self._problem
        dataset = SimpleNamespace(fingerprint="toy")
        target = trial.config["target"]
        base = dataclasses.replace(settings(), target=target)
        index = None if target is None else 1
        rest = (spec, variables, {"name": "toy"}, 0.0)
        return Start(base, folder, console, dataset, None, index, *rest)


@pytest.fixture
def four_trials(tmp_path, write_manifest, problem, monkeypatch):
    """Trials that differ in a number; their clips are the toy problem's."""
    text = MANIFEST.replace("[10, 20]", "[10, 20, 30, 40]").replace(
        '["untargeted", "first:1"]', '"a"'
    )
    planned = plan_built_in(write_manifest(text), tmp_path)
    monkeypatch.setattr(judge, "attack_clips", lambda *_: problem[2:])
    return planned, Context(tmp_path, tmp_path, False)


def test_who_is_left_out_of_a_group(four_trials, problem, tmp_path):
    (group,) = groups.grouped(four_trials[0], at_once=2)
    done, mistaken, *others = group
    finish(done, tmp_path)
    shared = FakeShared(problem, mistaken=(mistaken.id,))
    found = groups.attack_together(group, four_trials[1], shared, Console(), 2)
    assert set(found) == set(shared.compile_seconds) == {t.id for t in others}
    for trial in others:
        folder = trial.folder(tmp_path)
        assert (folder / "metrics.jsonl").is_file()
        assert (folder / "checkpoints" / "problem.json").is_file()
        assert "one of 2 attacks, 2 at once" in (folder / LOG).read_text()
        # The folders are free again.
        with files.locked(folder, wait=False):
            pass
    assert not (done.folder(tmp_path) / "metrics.jsonl").exists()
    assert not (mistaken.folder(tmp_path) / "metrics.jsonl").exists()


def test_a_folder_that_is_held_is_left_out(four_trials, problem, tmp_path):
    planned, context = four_trials
    with files.locked(planned[0].folder(tmp_path), wait=False):
        found = groups.attack_together(
            planned[:3], context, FakeShared(problem), Console(), 2
        )
    assert set(found) == {trial.id for trial in planned[1:3]}


def test_what_keeps_attacks_from_running_together_is_in_their_logs(
    four_trials, problem, tmp_path, monkeypatch, capsys
):
    planned, context = four_trials

    def fail(*_, **__):
        raise MemoryError("too much")

    monkeypatch.setattr(attack, "run_attacks", fail)
    shared = FakeShared(problem)
    assert groups.attack_together(planned, context, shared, Console(), 2) == {}
    assert "one by one, for together: MemoryError" in capsys.readouterr().out
    for trial in planned:
        assert "too much" in (trial.folder(tmp_path) / LOG).read_text()


def test_a_single_piece_is_left_to_itself(four_trials, problem):
    planned, context = four_trials
    shared = FakeShared(problem)
    assert groups.attack_together(planned[:1], context, shared, Console(), 2) == {}
    assert isinstance(planned[0], plan.Trial)
