"""Attacks that resume from a checkpoint, alone or in a group, to the same bits."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from toy_runs import SETTINGS, attack, changed, prepare

from uap_jax import attacks
from uap_jax.runs import attack as trails

TARGETS = (0, 1, 2)


class EndOfProcessError(Exception):
    """Stands for the end of the process."""


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """What is tested here are states and files."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(autouse=True)
def save_each_segment(monkeypatch):
    monkeypatch.setattr(trails, "SAVE_EVERY_S", 0.0)


def prepare_all(folder, method, targets):
    return [
        prepare(folder / str(target), method=method, target=target)
        for target in targets
    ]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=[pytest.mark.slow] * (name != "decoupled"))
        for name in SETTINGS
    ],
)
def whole(request, tmp_path_factory):
    """A method, and its results by target if nothing disturbs them."""
    method = request.param
    ready = prepare_all(tmp_path_factory.mktemp("whole"), method, TARGETS)
    return method, attack(*ready, width=2)


def assert_same(result, expected):
    for one, other in zip(
        jax.tree.leaves(result), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def passes_in(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def cut(monkeypatch, num_segments, *ready, width):
    """Runs attacks until as many segments are done."""
    calls = 0
    one, several = attacks.advance, attacks.advance_together

    def counted(function):
        def call(*arguments, **settings):
            nonlocal calls
            calls += 1
            if calls > num_segments:
                raise EndOfProcessError
            return function(*arguments, **settings)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(attacks, "advance", counted(one))
        patch.setattr(attacks, "advance_together", counted(several))
        with pytest.raises(EndOfProcessError):
            attack(*ready, width=width)


@pytest.fixture(scope="module")
def alone(whole, tmp_path_factory):
    method, _ = whole
    (result,) = attack(*prepare_all(tmp_path_factory.mktemp("alone"), method, [1]))
    return result


@pytest.mark.parametrize("num_segments", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_resumed_anywhere_gives_the_same_bits(
    whole, alone, tmp_path, monkeypatch, capsys, num_segments
):
    method, results = whole
    expected = alone
    (ready,) = prepare_all(tmp_path, method, [1])
    cut(monkeypatch, num_segments, ready, width=1)
    capsys.readouterr()
    (resumed,) = attack(ready)
    assert "resuming after pass" in capsys.readouterr().out
    assert_same(resumed, expected)
    lines = passes_in(ready.workdir)
    num_passes = int(expected.num_passes)
    assert [line["pass"] for line in lines] == list(range(1, num_passes + 1))
    for line in lines:
        assert line["asr"] == float(expected.history["asr"][line["pass"] - 1])
        assert line["seconds"] > 0
    # Beside others only rounding differs.
    np.testing.assert_allclose(
        resumed.perturbation.value, results[1].perturbation.value, atol=0.05
    )


def test_a_group_resumes_but_for_rounding(whole, tmp_path, monkeypatch):
    method, expected = whole
    ready = prepare_all(tmp_path, method, TARGETS)
    cut(monkeypatch, 3, *ready, width=2)
    for result, other in zip(attack(*ready, width=2), expected, strict=True):
        # Which attacks run side by side, and which alone, depends on the cut.
        for one, two in zip(*map(jax.tree.leaves, (result, other)), strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)
    for run, result in zip(ready, expected, strict=True):
        assert len(passes_in(run.workdir)) == int(result.num_passes)


def test_one_of_a_group_finishes_alone(whole, tmp_path, monkeypatch):
    method, expected = whole
    ready = prepare_all(tmp_path, method, TARGETS)
    cut(monkeypatch, 3, *ready, width=2)
    (result,) = attack(ready[0])
    assert int(result.num_passes) == int(expected[0].num_passes)
    assert len(passes_in(ready[0].workdir)) == int(result.num_passes)


def test_stopped_attack_is_not_run_again(tmp_path, capsys):
    ready = prepare(tmp_path)
    (first,) = attack(ready)
    capsys.readouterr()
    (again,) = attack(ready)
    assert_same(again, first)
    assert "pass 1/" not in capsys.readouterr().out


def test_seconds_of_a_cut_pass_add_up(tmp_path, monkeypatch):
    """A pass that was cut has the seconds of both processes."""
    ready = prepare(tmp_path, max_passes=1)
    cut(monkeypatch, 1, ready, width=1)
    path = tmp_path / "checkpoints" / "clock.json"
    clock = json.loads(path.read_text())
    path.write_text(json.dumps(clock | {"seconds": 1000.0}))
    attack(ready)
    assert passes_in(tmp_path)[0]["seconds"] > 1000.0


def test_perturbation_held_near_silence_is_explained(tmp_path, capsys):
    settings = {"penalty_coefficient": 1e-6, "learning_rate": 1e-5}
    attack(changed(prepare(tmp_path, max_passes=3), **settings))
    assert "attack.penalty_coefficient=4e-06" in capsys.readouterr().out


def test_stalled_greedy_attack_is_explained(tmp_path, capsys):
    ready = prepare(tmp_path, method="greedy")
    ddn = dataclasses.replace(ready.config.attack.ddn, num_steps=2, init_norm=1e-4)
    (result,) = attack(changed(ready, ddn=ddn))
    assert int(result.num_passes) == 1
    said = capsys.readouterr().out
    assert "0 skipped" not in said
    assert "DDN failed on the" in said
    assert "ddn.num_steps=4" in said
