"""One small network, written in JAX and in NumPy, with the same weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from uap_jax import attacks

NUM_SAMPLES = 48
NUM_CLASSES = 4
NUM_HIDDEN = 6
WIDTH = 8
STRIDE = 4


@functools.cache
def weights():
    """Of a convolution, tanh, the mean over time, and a linear layer."""
    rng = np.random.default_rng(7)

    def numbers(*shape, scale):
        return np.float32(scale * rng.standard_normal(shape))

    return {
        "kernel": numbers(NUM_HIDDEN, 1, WIDTH, scale=1.0),
        "bias": numbers(NUM_HIDDEN, scale=0.3),
        "out_kernel": numbers(NUM_CLASSES, NUM_HIDDEN, scale=6.0),
        "out_bias": numbers(NUM_CLASSES, scale=0.1),
    }


def jax_logits(variables, x):
    """`[B, N]` to `[B, C]`."""
    steps = jax.lax.conv_general_dilated(
        x[:, None, :], variables["kernel"], (STRIDE,), "VALID"
    )
    hidden = jnp.tanh(steps + variables["bias"][None, :, None])
    pooled = jnp.mean(hidden, axis=2)
    return pooled @ variables["out_kernel"].T + variables["out_bias"][None]


def _hidden(x):
    """The windows `[B, T, K]` of clips and what tanh makes of them `[B, T, H]`."""
    windows = np.lib.stride_tricks.sliding_window_view(x, WIDTH, axis=1)[:, ::STRIDE]
    kernel = weights()["kernel"][:, 0]
    return windows, np.tanh(windows @ kernel.T + weights()["bias"])


def numpy_forward(x):
    _, hidden = _hidden(x)
    pooled = np.mean(hidden, axis=1)
    return pooled @ weights()["out_kernel"].T + weights()["out_bias"]


def numpy_vjp(x, cotangents):
    _, hidden = _hidden(x)
    at_pooled = cotangents @ weights()["out_kernel"] / np.float32(hidden.shape[1])
    at_hidden = at_pooled[:, None, :] * (1 - np.square(hidden))
    at_windows = at_hidden @ weights()["kernel"][:, 0]
    gradient = np.zeros_like(x)
    for step in range(hidden.shape[1]):
        start = STRIDE * step
        gradient[:, start : start + WIDTH] += at_windows[:, step]
    return gradient


@functools.cache
def clips(num_clips=12):
    """`[M, N]` in the box, with their classes `[M]`."""
    x = np.random.default_rng(3).uniform(0.1, 0.9, (num_clips, NUM_SAMPLES))
    x = jnp.asarray(x, jnp.float32)
    labels = jnp.argmax(jax_logits(weights(), x), axis=1)
    return x, labels.astype(jnp.int32)


def value_and_gradient(logits, variables, x):
    """A number that has all logits in it, and its gradient."""

    def total(x):
        factors = jnp.arange(1.0, NUM_CLASSES + 1)
        return jnp.sum(jnp.sin(logits(variables, x)) * factors[None])

    return jax.value_and_grad(total)(x)


def ascend(logits, variables, x):
    """Five steps along the gradient inside a while loop."""

    def step(carry):
        index, x = carry
        _, gradient = value_and_gradient(logits, variables, x)
        return index + 1, jnp.clip(x + 0.01 * gradient, 0.0, 1.0)

    return jax.lax.while_loop(lambda carry: carry[0] < 5, step, (0, x))[1]


def assert_agrees(classifier):
    """Logits and gradients of a classifier of the network, compiled and not."""
    x, _ = clips()
    expected = value_and_gradient(jax_logits, weights(), x)
    variables = classifier.variables
    assert_close(classifier.logits(variables, x), jax_logits(weights(), x))
    compute = functools.partial(value_and_gradient, classifier.logits, variables)
    for result in (compute(x), jax.jit(compute)(x)):
        for part, expected_part in zip(result, expected, strict=True):
            assert_close(part, expected_part)


def assert_close(found, expected, *, tolerance=1e-5):
    """To `tolerance` of the largest number."""
    scale = float(np.max(np.abs(expected)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale)


ATTACKS = ("ddn", "penalty", "greedy")


@functools.cache
def expected_of_attack(name):
    """What `run_attack` gives for the network in JAX."""
    return np.asarray(run_attack(name, jax_logits, weights()))


def run_attack(name, logits, variables):
    """A short attack; its perturbations as an array."""
    x, labels = clips()
    ddn = attacks.DDNConfig(num_steps=20)
    if name == "ddn":
        return attacks.ddn(logits, variables, x, labels, config=ddn).delta
    key = jax.random.key(0)
    if name == "penalty":
        config = attacks.PenaltyConfig(
            batch_size=6,
            micro_batch_size=4,
            max_passes=1,
            learning_rate=0.05,
            penalty_coefficient=5.0,
        )
        run = attacks.penalty
    else:
        config = attacks.GreedyConfig(max_passes=1, ddn=ddn)
        run = attacks.greedy
    result = run(logits, variables, x, labels, key=key, target=1, config=config)
    assert int(result.num_passes) == 1
    return result.perturbation.value
