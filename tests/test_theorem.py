"""Theorem 1's convex problem, and how the penalty method compares with its solution."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize
from absl import flags

FOLDER = Path(__file__).parents[1] / "experiments" / "theorem"
with pytest.MonkeyPatch.context() as path:
    path.syspath_prepend(FOLDER)
    import linear_victim


@pytest.fixture(scope="module")
def problem():
    return linear_victim.make_problem(0, num_clips=20, num_samples=16)


@pytest.fixture(scope="module")
def solution(problem):
    return linear_victim.least_norm(*linear_victim.constraints(problem))


def test_least_norm_is_that_of_a_general_solver(problem, solution):
    a, b = linear_victim.constraints(problem)
    found = scipy.optimize.minimize(
        lambda v: v @ v / 2,
        np.zeros(a.shape[1]),
        jac=lambda v: v,
        method="SLSQP",
        constraints=scipy.optimize.LinearConstraint(a, lb=b),
        options={"maxiter": 500, "ftol": 1e-14},
    )
    assert found.success
    np.testing.assert_allclose(solution.value, found.x, atol=1e-5)
    assert np.all(a @ solution.value >= b - 1e-9)
    assert np.all(solution.multipliers >= 0)
    np.testing.assert_allclose(a.T @ solution.multipliers, solution.value, atol=1e-9)


def test_constraints_that_cannot_be_met():
    with pytest.raises(ValueError, match="can be met"):
        linear_victim.least_norm(
            np.array([[1.0, 0.0], [-1.0, 0.0]]), np.array([1.0, 1.0])
        )


def test_the_least_coefficient_is_where_silence_stops_to_pay(problem, solution):
    """Eq. 11 along the line from the optimum to silence: a minimum, or none."""
    least = linear_victim.least_coefficient(solution, 20)

    def eq_11(scale, coefficient):
        v = scale * solution.value
        logits = (problem.x_tanh + v) @ problem.templates.T
        others = np.delete(logits, linear_victim.TARGET, axis=1).max(1)
        hinges = np.maximum(others - logits[:, linear_victim.TARGET], 0)
        return 10 * np.log10(np.mean(v * v)) + coefficient * hinges.sum()

    # Along this line the slope of the level is 20 / ln 10, that of the hinges at most
    # the sum over active clips, so that no less than `least` can balance it.
    for scale in (0.999, 1.001):
        assert eq_11(scale, 5 * least) > eq_11(1.0, 5 * least)
    assert eq_11(0.999, 0.1 * least) < eq_11(1.0, 0.1 * least)


def test_penalty_comes_close_and_never_below(problem, solution):
    optimum_db = 10 * np.log10(np.mean(solution.value**2))
    least = linear_victim.least_coefficient(solution, 20)
    level_db, asr = linear_victim.run_penalty(
        problem, coefficient=5 * least, learning_rate=0.003, num_steps=400
    )
    row = linear_victim.Row(5.0, 0.003, 0, level_db - optimum_db, asr)
    assert -0.01 <= row.best_db <= linear_victim.CLOSE_DB
    assert 1 <= row.steps <= 400


def test_a_small_coefficient_ends_in_silence(problem, solution):
    least = linear_victim.least_coefficient(solution, 20)
    _, asr = linear_victim.run_penalty(
        problem, coefficient=0.05 * least, learning_rate=0.003, num_steps=100
    )
    assert np.all(asr < 1.0)


@pytest.mark.slow
def test_table_and_figure(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    theorem = runpy.run_path(str(FOLDER / "theorem.py"), run_name="theorem")
    flags.FLAGS(
        [
            *("theorem", f"--output={tmp_path}", "--seeds=0,1", "--num_steps=3"),
            *("--num_clips=6", "--num_samples=8"),
            *("--coefficients=2", "--learning_rates=0.01"),
        ]
    )
    try:
        assert theorem["main"]() == 0
    finally:
        for flag in list(flags.FLAGS.flags_by_module_dict()["theorem"]):
            delattr(flags.FLAGS, flag.name)
    table = (tmp_path / "theorem_1.md").read_text()
    assert "| 2 | 0.01 | " in table and "seeds 0, 1" in table
    assert (tmp_path / "theorem_1.svg").read_text().startswith("<svg ")
