"""A victim for which Eq. 4 is a convex problem, and the penalty method on it."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import nnls

from uap_jax import attacks
from uap_jax.audio.box import from_tanh_space, to_tanh_space

NUM_CLASSES, TARGET = 4, 0
# What "close" is in the table.
CLOSE_DB = 0.5


class Convex(NamedTuple):
    """The solution of min ||v||_2 subject to A v >= b."""

    value: np.ndarray  # [N], v
    multipliers: np.ndarray  # [K], those of ||v||^2 / 2: v = A^T multipliers


def least_norm(a: np.ndarray, b: np.ndarray) -> Convex:
    """Solves min ||v||_2 subject to A v >= b.

    Args:
        a: `[K, N]` float64.
        b: `[K]`.

    Raises:
        ValueError: No v satisfies all.

    Source: C. Lawson and R. Hanson, "Solving Least Squares Problems", chapter 23, least
    distance programming by non-negative least squares.
    """
    system = np.concatenate([a.T, b[None]])
    wanted = np.zeros(len(system))
    wanted[-1] = 1.0
    found, _ = nnls(system, wanted)
    residual = system @ found - wanted
    if -residual[-1] <= 1e-12:
        raise ValueError("a, b: expected constraints that can be met, got others")
    return Convex(-residual[:-1] / residual[-1], found / -residual[-1])


class Problem(NamedTuple):
    """Clips, and a victim that is linear in the space of v'."""

    x_tanh: np.ndarray  # [M, N], x' of Eq. 7
    templates: np.ndarray  # [C, N]


def make_problem(seed: int, *, num_clips: int, num_samples: int) -> Problem:
    """Draws a victim and clips near the middle of the box."""
    rng = np.random.default_rng(seed)
    templates = rng.standard_normal((NUM_CLASSES, num_samples))
    return Problem(0.1 * rng.standard_normal((num_clips, num_samples)), templates)


def constraints(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Returns A `[M (C - 1), N]` and b: A v' >= b if all clips are the target's.

    (w_t - w_j) . (x_i' + v') >= 0 for each clip i and each other class j.
    """
    others = [j for j in range(NUM_CLASSES) if j != TARGET]
    rows = problem.templates[TARGET] - problem.templates[others]
    a = np.tile(rows, (len(problem.x_tanh), 1))
    return a, -(problem.x_tanh @ rows.T).ravel()


def least_coefficient(solution: Convex, num_clips: int) -> float:
    """Returns the least c with which the optimum is a stationary point of Eq. 11.

    The slope of the level, 20 / ln 10 v / ||v||^2, is sum_k lambda_k a_k with
    lambda = 20 / (ln 10 ||v||^2) times the multipliers; a hinge holds against it if
    those of its clip add up to at most c.
    """
    slope = 20 / math.log(10) / np.sum(np.square(solution.value))
    by_clip = slope * solution.multipliers.reshape(num_clips, -1).sum(1)
    return float(by_clip.max())


def run_penalty(
    problem: Problem, *, coefficient: float, learning_rate: float, num_steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns level (dB) and success rate after each step, `[num_steps]` each."""

    def logits_fn(variables: Any, x: jax.Array) -> jax.Array:
        return to_tanh_space(x) @ variables["templates"].T

    x = from_tanh_space(jnp.asarray(problem.x_tanh, jnp.float32))
    variables = {"templates": jnp.asarray(problem.templates, jnp.float32)}
    result = attacks.penalty(
        logits_fn,
        variables,
        x,
        jnp.argmax(logits_fn(variables, x), axis=1).astype(jnp.int32),
        key=jax.random.key(0),
        target=TARGET,
        config=attacks.PenaltyConfig(
            batch_size=len(x),
            max_passes=num_steps,
            min_passes=num_steps,
            target_asr=1.0,
            confidence=0.0,
            penalty_coefficient=coefficient,
            learning_rate=learning_rate,
            l2_radius=None,
        ),
    )
    return np.asarray(result.history["spl_db"]), np.asarray(result.history["asr"])


class Row(NamedTuple):
    """How one setting did on one problem."""

    share: float  # c as a multiple of the least
    learning_rate: float
    seed: int
    excess_db: np.ndarray  # [steps], level above the optimum's
    asr: np.ndarray  # [steps]

    @property
    def best_db(self) -> float:
        """The quietest v' that fooled all clips, above the optimum; NaN: none did."""
        fooling = self.excess_db[self.asr >= 1.0]
        return float(fooling.min()) if fooling.size else math.nan

    @property
    def steps(self) -> float:
        """Steps until all clips were fooled within CLOSE_DB of the optimum."""
        good = np.flatnonzero((self.asr >= 1.0) & (self.excess_db <= CLOSE_DB))
        return float(good[0] + 1) if good.size else math.nan
