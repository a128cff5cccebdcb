"""An attack that goes on from a checkpoint ends with the same bits."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from toy_attacks import InterruptedError, make_problem, run, settings

from uap_jax import attacks
from uap_jax.attacks.methods import METHODS
from uap_jax.console import Console
from uap_jax.runs import attack


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """What is tested here are states and files."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def problem():
    return make_problem()


@pytest.fixture(scope="module", params=METHODS)
def whole(request, problem, tmp_path_factory):
    """A method, and what it finds if nothing disturbs it."""
    method = request.param
    return method, run(problem, tmp_path_factory.mktemp("whole"), method=method)


@pytest.mark.parametrize("num_segments", [1, 2, 4, 7])
def test_resumed_anywhere_gives_the_same_bits(
    problem, whole, tmp_path, monkeypatch, capsys, num_segments
):
    method, expected = whole
    calls = 0
    segment = attacks.together_segment

    def interrupted(*arguments, **settings):
        nonlocal calls
        calls += 1
        if calls > num_segments:
            raise InterruptedError
        return segment(*arguments, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(attacks, "together_segment", interrupted)
        with pytest.raises(InterruptedError):
            run(problem, tmp_path / "cut", method=method)
    capsys.readouterr()
    resumed = run(problem, tmp_path / "cut", method=method)
    assert "going on after pass" in capsys.readouterr().out
    np.testing.assert_array_equal(
        resumed.perturbation.value, expected.perturbation.value
    )
    for name, column in expected.history.items():
        np.testing.assert_array_equal(resumed.history[name], column)
    lines = (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()
    passes = [json.loads(line)["pass"] for line in lines]
    assert passes == list(range(1, int(expected.num_passes) + 1))


def test_stopped_attack_is_not_run_again(problem, tmp_path, capsys):
    first = run(problem, tmp_path)
    capsys.readouterr()
    again = run(problem, tmp_path)
    np.testing.assert_array_equal(again.perturbation.value, first.perturbation.value)
    assert "pass 1/" not in capsys.readouterr().out


def test_perturbation_held_near_silence_is_explained(problem, tmp_path, capsys):
    classifier, x, labels = problem
    quiet = dataclasses.replace(
        settings(max_passes=3),
        attack=dataclasses.replace(
            settings(max_passes=3).attack, penalty_coefficient=1e-6, learning_rate=1e-5
        ),
    )
    attack.run_attack(
        quiet,
        classifier,
        x,
        labels,
        target=1,
        key=jax.random.key(7),
        workdir=tmp_path,
        console=Console(),
    )
    assert "attack.penalty_coefficient=4e-06" in capsys.readouterr().out


def test_stalled_greedy_attack_is_explained(problem, tmp_path, capsys):
    classifier, x, labels = problem
    base = settings(method="greedy")
    ddn = dataclasses.replace(base.attack.ddn, num_steps=2, init_norm=1e-4)
    result = attack.run_attack(
        dataclasses.replace(base, attack=dataclasses.replace(base.attack, ddn=ddn)),
        classifier,
        x,
        labels,
        target=1,
        key=jax.random.key(7),
        workdir=tmp_path,
        console=Console(),
    )
    assert int(result.num_passes) == 1
    said = capsys.readouterr().out
    assert "0 skipped" not in said
    assert "DDN found nothing for the" in said
    assert "ddn.num_steps=4" in said
