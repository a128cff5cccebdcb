"""DDN: how near it comes to the optimum, its box, what it says where it fails."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_networks import (
    ball_logits,
    boundary_problem,
    constant_logits,
    linear_logits,
    linear_problem,
    mlp_logits,
    mlp_problem,
    predictions,
    step_logits,
)

from uap_jax import attacks
from uap_jax.attacks.ddn import STATUSES

TOP = np.float32(np.nextafter(np.float32(1), np.float32(0)))


def run(logits_fn, variables, x, labels, *, targeted=False, key=None, **settings):
    return attacks.ddn(
        logits_fn,
        variables,
        x,
        labels,
        key=key,
        targeted=targeted,
        config=attacks.DDNConfig(**settings),
    )


def statuses(result):
    return [STATUSES[int(status)] for status in result.status]


def assert_truthful(result, logits_fn, variables, x, labels, *, targeted=False):
    """The clips stay in the box, and the classifier says what the result says."""
    moved = np.asarray(x) + np.asarray(result.delta)
    assert moved.dtype == np.float32 and np.all((moved >= 0) & (moved <= 1))
    is_adversarial = (
        predictions(logits_fn, variables, moved) == np.asarray(labels)
    ) == targeted
    np.testing.assert_array_equal(is_adversarial, result.success)
    l2 = np.linalg.norm(np.float64(result.delta), axis=1)
    np.testing.assert_allclose(result.l2, l2, rtol=1e-6)
    assert np.all(l2[~np.asarray(result.success)] == 0)


@pytest.mark.parametrize(
    ("shape", "highest", "scale", "targeted", "bounds"),
    [
        ((1, 17, 2), 0.5, 1.0, False, {50: 1.25, 300: 1.02}),
        ((8, 1000, 2), 1.8, 30.0, True, {50: 1.25}),
        # Where logits are large the runner-up alone decides the direction.
        ((3, 256, 5), 1.2, 400.0, False, {50: 1.25, 300: 1.02}),
        # Where the softmax rounds to 0 and 1, so that its gradient is zero.
        ((3, 64, 3), 0.5, 1e4, False, {50: 1.25}),
        ((3, 64, 3), 0.5, 1e4, True, {50: 1.25}),
    ],
)
def test_optimum_of_a_linear_classifier(shape, highest, scale, targeted, bounds):
    variables, x, labels, runners_up, distances = boundary_problem(
        *shape, highest=highest, scale=scale
    )
    if scale == 1e4:
        shares = jax.nn.softmax(linear_logits(variables, x))
        np.testing.assert_array_equal(np.unique(shares), [0, 1])
    classes = runners_up if targeted else labels
    for num_steps, at_most in bounds.items():
        settings = {"targeted": targeted, "num_steps": num_steps}
        result = run(linear_logits, variables, x, classes, **settings)
        assert_truthful(result, linear_logits, variables, x, classes, targeted=targeted)
        assert statuses(result) == ["found"] * len(x)
        ratio = np.float64(result.l2) / distances
        assert np.max(ratio) <= at_most and np.min(ratio) >= 1 - 1e-5


@pytest.mark.parametrize(
    ("micro_batch_size", "targeted"), [(None, False), (1, False), (3, True)]
)
def test_each_clip_depends_on_itself_alone(micro_batch_size, targeted):
    variables, x, labels = mlp_problem(8)
    classes = np.array((labels + 1) % 4 if targeted else labels)
    # One clip that ends early, and others that go to the end.
    classes[2] = labels[2] if targeted else (labels[2] + 1) % 4
    settings = {"num_steps": 20, "targeted": targeted}
    together = run(
        mlp_logits, variables, x, classes, micro_batch_size=micro_batch_size, **settings
    )
    assert np.sum(together.success) >= 7
    assert statuses(together)[2] == "already_adversarial" and together.success[2]
    assert together.l2[2] == 0 and not np.any(together.delta[2])
    x = np.asarray(x)
    for index in range(8):
        one = slice(index, index + 1)
        alone = run(mlp_logits, variables, x[one], classes[one], **settings)
        for part, own in zip(
            jax.tree.leaves(together), jax.tree.leaves(alone), strict=True
        ):
            np.testing.assert_allclose(np.asarray(part)[one], own, rtol=1e-5, atol=1e-6)


def test_more_clips_than_one_batch_holds():
    variables, x, labels = linear_problem(40)
    result = run(linear_logits, variables, x, labels, num_steps=10)
    assert_truthful(result, linear_logits, variables, x, labels)


@pytest.mark.parametrize(
    ("num_samples", "num_steps", "targeted", "expected"),
    [
        (64, 50, False, "budget_too_small"),
        (64, 100, True, "not_found"),
        (4, 50, True, "not_found"),
    ],
)
def test_nothing_to_find(num_samples, num_steps, targeted, expected):
    variables = {"bias": np.float32([1.0, 0.5, 0.0])}
    x = np.full((3, num_samples), 0.5, np.float32)
    labels = np.full(3, 2 if targeted else 0, np.int32)
    settings = {"targeted": targeted, "num_steps": num_steps}
    result = run(constant_logits, variables, x, labels, **settings)
    assert statuses(result) == [expected] * 3
    assert not np.any(result.success)
    np.testing.assert_array_equal(result.delta, 0.0)
    np.testing.assert_array_equal(result.l2, 0.0)
    reach = min(0.5 * np.sqrt(num_samples), 0.2 * 1.05 ** (num_steps - 1))
    np.testing.assert_allclose(result.reach_l2, reach, rtol=1e-5)


@pytest.mark.parametrize(
    ("logits_fn", "num_steps"), [(ball_logits, 2), (ball_logits, 12), (step_logits, 50)]
)
def test_reach_is_what_the_steps_reach(logits_fn, num_steps):
    """A ball of that radius: what lies just inside is found, just outside is not."""
    # So many samples that no step gets near the walls of the box.
    x = np.full((2, 1024), 0.5, np.float32)
    reach = 0.2 * 1.05 ** (num_steps - 1)
    for share, expected in ((0.999, "found"), (1.001, "budget_too_small")):
        radius = {"radius": np.float32(share * reach)}
        result = run(logits_fn, radius, x, np.zeros(2, np.int32), num_steps=num_steps)
        assert statuses(result) == [expected] * 2
        np.testing.assert_allclose(result.reach_l2, reach, rtol=1e-5)
        if expected == "found":
            np.testing.assert_allclose(result.l2, reach, rtol=1e-5)


def test_random_direction_is_one_for_all_clips():
    levels = np.linspace(0.49, 0.51, 5, dtype=np.float32)
    x = np.repeat(levels[:, None], 1024, axis=1)
    labels, variables = np.zeros(5, np.int32), {"radius": np.float32(0.9)}

    def deltas(key, clips=slice(None)):
        result = run(
            step_logits,
            variables,
            x[clips],
            labels[clips],
            key=key,
            num_steps=2,
            init_norm=1.2,
        )
        assert np.all(result.success)
        return np.asarray(result.delta)

    first = deltas(jax.random.key(1))
    np.testing.assert_array_equal(first, deltas(jax.random.key(1)))
    np.testing.assert_array_equal(deltas(None), deltas(jax.random.key(0)))
    assert np.any(first != deltas(jax.random.key(2)))
    np.testing.assert_allclose(first, np.tile(first[:1], (5, 1)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1.26, rtol=1e-5)
    alone = deltas(jax.random.key(1), slice(3, 4))
    np.testing.assert_allclose(alone[0], first[3], rtol=1e-5, atol=1e-6)


def nan_for_loud_clips(variables, x):
    logits = ball_logits({"radius": variables["radius"]}, x)
    is_loud = jnp.max(jnp.abs(x - 0.5), axis=1, keepdims=True) > variables["loud"]
    return jnp.where(is_loud, jnp.nan, logits)


def test_logits_that_are_not_finite():
    """Other clips in the batch are not lost, nor is what was found beside a fault."""
    x = np.full((3, 64), 0.5, np.float32)
    x[1, 0] = 1.0
    labels = np.zeros(3, np.int32)
    loud = np.float32(0.45)
    variables = {"radius": np.float32(0.5), "loud": loud}
    result = run(nan_for_loud_clips, variables, x, labels)
    assert statuses(result)[::2] == ["found", "found"]
    assert np.all(np.isfinite(result.delta))
    assert bool(result.success[1]) == (statuses(result)[1] == "found")
    # All logits of all clips.
    result = run(nan_for_loud_clips, variables | {"loud": -loud}, x, labels)
    assert statuses(result) == ["non_finite_logits"] * 3
    assert not np.any(result.success)
    np.testing.assert_array_equal(result.delta, 0.0)
    np.testing.assert_array_equal(result.l2, 0.0)


@pytest.mark.parametrize("quantization_levels", [None, 256])
def test_never_leaves_the_box(quantization_levels):
    rng = np.random.default_rng(0)
    x = rng.random((6, 64), np.float32)
    x[0], x[1] = 0.0, 1.0
    x[2] = np.where(x[2] < 0.5, 0.0, 1.0)
    x[3] = rng.choice(np.float32([1e-9, 3e-8, 6e-8, 1e-40, TOP, 0.1, 1 / 3]), 64)
    templates = rng.standard_normal((3, 64)).astype(np.float32)
    variables = {"templates": templates}
    labels = predictions(linear_logits, variables, x).astype(np.int32)
    result = run(
        linear_logits,
        variables,
        x,
        labels,
        init_norm=3.0,
        quantization_levels=quantization_levels,
    )
    assert np.all(result.success)
    assert_truthful(result, linear_logits, variables, x, labels)
    # It does go up to the walls.
    moved = x + np.asarray(result.delta)
    assert np.any((moved == 0) & (x > 0)) or np.any((moved == 1) & (x < 1))
    if quantization_levels is not None:
        levels = np.asarray(result.delta)[(moved > 0) & (moved < 1)] * 255
        np.testing.assert_allclose(levels, np.round(levels), atol=1e-4)


def test_numbers_may_be_mapped_over():
    """In a program that closes over the clips, too."""
    problem = (mlp_logits, *mlp_problem(4))
    gammas, norms = np.float32([0.05, 0.1, 0.02]), np.float32([0.2, 0.05, 0.4])

    @jax.jit
    @jax.vmap
    def sweep(gamma, norm):
        return run(*problem, num_steps=15, gamma=gamma, init_norm=norm)

    swept = sweep(gammas, norms)
    for index in range(3):
        alone = run(*problem, num_steps=15, gamma=gammas[index], init_norm=norms[index])
        np.testing.assert_array_equal(swept.status[index], alone.status)
        np.testing.assert_allclose(swept.delta[index], alone.delta, rtol=0, atol=1e-5)
        np.testing.assert_allclose(swept.reach_l2[index], alone.reach_l2, rtol=1e-5)


def greedy(logits_fn, variables, x, labels, *, config):
    config = attacks.GreedyConfig(ddn=config)
    key = jax.random.key(0)
    return attacks.greedy(logits_fn, variables, x, labels, key=key, config=config)


@pytest.mark.parametrize("attack", [attacks.ddn, greedy])
@pytest.mark.parametrize(
    "setting",
    [
        ("num_steps", 0),
        ("num_steps", None),
        ("num_steps", 10**11),
        ("init_norm", 1e-50),
        ("gamma", 1e-50),
        ("quantization_levels", 2**31),
        ("init_norm", 0.0),
        ("init_norm", float("nan")),
        ("init_norm", None),
        ("gamma", 1.0),
        ("gamma", -0.05),
        ("gamma", "slow"),
        ("quantization_levels", 1),
        ("quantization_levels", 256.0),
        ("micro_batch_size", 0),
    ],
    ids=str,
)
def test_refused_settings(attack, setting):
    name, value = setting
    config = attacks.DDNConfig(**{name: value})
    with pytest.raises(ValueError, match=rf"^{name}: expected [^\n]*$"):
        attack(linear_logits, *linear_problem(), config=config)


def test_refused_inputs():
    variables, x, labels = linear_problem()
    given = {"logits_fn": linear_logits, "x": x, "labels": labels}
    for name, wrong in (
        ("x", np.float64(x)),
        ("labels", np.full(64, 4, np.int32)),
        ("logits_fn", lambda variables, x: x[:, 0]),
        ("key", 0),
        ("config", attacks.GreedyConfig()),
    ):
        with pytest.raises(ValueError, match=rf"^{name}: expected [^\n]*$"):
            attacks.ddn(variables=variables, **given | {name: wrong})
