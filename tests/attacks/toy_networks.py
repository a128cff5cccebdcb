"""Tiny classifiers and clips with fixed numbers, shared by the tests of attacks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np


def mlp_logits(variables, x):
    """A smooth network of two layers, `[B, N]` to `[B, C]`."""
    hidden = jnp.tanh(x @ variables["kernel"] + variables["bias"][None])
    return hidden @ variables["out_kernel"] + variables["out_bias"][None]


def mlp_weights(num_samples=32, num_classes=4, num_hidden=12, *, phase=0.0):
    """Weights from a formula, so that no random generator can change them."""

    def numbers(shape, scale, start):
        at = np.arange(np.prod(shape), dtype=np.float64) + start + phase
        return scale * (2 * _hash(at).reshape(shape) - 1)

    kernel = numbers((num_samples, num_hidden), 0.8, 0)
    return {
        "kernel": kernel.astype(np.float32),
        # A resting clip of 0.5 gives hidden units of 0.
        "bias": (-0.5 * kernel.sum(axis=0)).astype(np.float32),
        "out_kernel": numbers((num_hidden, num_classes), 3.0, 1e4).astype(np.float32),
        "out_bias": numbers((num_classes,), 0.2, 2e4).astype(np.float32),
    }


def mlp_clips(num_clips=24, num_samples=32, num_classes=4):
    """Clips in [0.1, 0.9] and labels, from a formula as well."""
    at = np.arange(num_clips * num_samples, dtype=np.float64) + 3e4
    x = (0.1 + 0.8 * _hash(at)).reshape(num_clips, num_samples).astype(np.float32)
    labels = (np.arange(num_clips) * 7 % num_classes).astype(np.int32)
    return jnp.asarray(x), jnp.asarray(labels)


@functools.cache
def mlp_problem(num_clips=24):
    """Weights, clips and labels that `mlp_logits` gets right."""
    variables = mlp_weights()
    x, _ = mlp_clips(num_clips)
    labels = predictions(mlp_logits, variables, x)
    return variables, x, jnp.asarray(labels, jnp.int32)


def linear_logits(variables, x):
    """`[B, N]` to `[B, C]`: correlation with a template for each class."""
    return (x - 0.5) @ variables["templates"].T


@functools.cache
def linear_problem(num_clips=64, num_samples=64, num_classes=4, *, seed=0):
    """Weights, clips and labels that `linear_logits` gets right."""
    rng = np.random.default_rng(seed)
    templates = rng.standard_normal((num_classes, num_samples))
    labels = np.arange(num_clips) % num_classes
    noise = 0.02 * rng.standard_normal((num_clips, num_samples))
    x = np.clip(0.5 + 0.04 * templates[labels] + noise, 0, 1)
    variables = {"templates": jnp.asarray(templates, jnp.float32)}
    return (
        variables,
        jnp.asarray(x, jnp.float32),
        jnp.asarray(labels.astype(np.int32)),
    )


def constant_logits(variables, x):
    """The same logits whatever the clip, `[B, C]`."""
    return jnp.broadcast_to(variables["bias"][None], (x.shape[0], 3))


def predictions(logits_fn, variables, x):
    """`[B]`, as a NumPy array."""
    return np.asarray(jnp.argmax(jax.jit(logits_fn)(variables, x), axis=1))


def _hash(at):
    """Numbers in [0, 1) that look random and follow from a formula."""
    return np.modf(1e4 * np.abs(np.sin(12.9898 * at + 78.233)))[0]
