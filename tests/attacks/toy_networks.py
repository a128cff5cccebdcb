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


@functools.cache
def boundary_problem(num_clips, num_samples, num_classes=2, *, highest=0.6, scale=1.0):
    """Clips for `linear_logits` whose distance from the runner-up's region is known.

    Templates are orthonormal times `scale`, and all classes but two are far behind.

    Returns:
        Weights, clips, labels, runners-up and distances.
    """
    rng = np.random.default_rng(num_samples)
    templates, _ = np.linalg.qr(rng.standard_normal((num_samples, num_classes)))
    templates = np.float32(scale * templates.T)
    labels = np.arange(num_clips) % num_classes
    runners_up = (labels + 1) % num_classes
    wanted = np.geomspace(0.05, highest, num_clips)[::-1]
    parts = np.repeat(-0.15 - wanted[:, None] / np.sqrt(2), num_classes, axis=1)
    every = np.arange(num_clips)
    parts[every, labels] = wanted / np.sqrt(2)
    parts[every, runners_up] = -wanted / np.sqrt(2)
    x = np.float32(0.5 + parts @ templates / scale)
    between = np.float64(templates[labels]) - templates[runners_up]
    steepness = np.linalg.norm(between, axis=1)
    distances = np.sum(between * (np.float64(x) - 0.5), axis=1) / steepness
    nearest = x - distances[:, None] * between / steepness[:, None]
    # Else the box would have a say in which point is the nearest.
    assert np.all((nearest > 0.02) & (nearest < 0.98))
    classes = (jnp.asarray(numbers, jnp.int32) for numbers in (labels, runners_up))
    return {"templates": jnp.asarray(templates)}, jnp.asarray(x), *classes, distances


@functools.cache
def grid_problem(num_clips=20, num_samples=24, num_classes=3):
    """Weights, clips and labels, some of them wrong, for exact `linear_logits`.

    The weights are integers and the clips multiples of 1 / 256, as are deltas of 257
    levels, so that float32 rounds no logit.
    """
    at = np.arange((num_clips + num_classes) * num_samples, dtype=np.float64) + 5e4
    numbers = _hash(at).reshape(-1, num_samples)
    templates = np.round(6 * numbers[:num_classes] - 3)
    x = np.round(16 + 224 * numbers[num_classes:]) / 256
    variables = {"templates": jnp.asarray(templates, jnp.float32)}
    x = jnp.asarray(x, jnp.float32)
    labels = predictions(linear_logits, variables, x)
    labels = np.where(np.arange(num_clips) % 5 == 3, (labels + 1) % 3, labels)
    return variables, x, jnp.asarray(labels, jnp.int32)


def ball_logits(variables, x):
    """Class 0 within a radius around 0.5, class 1 outside, `[B, 2]`."""
    square = jnp.sum(jnp.square(x - 0.5), axis=1)
    return jnp.stack([jnp.zeros_like(square), square - variables["radius"] ** 2], 1)


def step_logits(variables, x):
    """As `ball_logits`, but with no gradient anywhere."""
    return jnp.sign(ball_logits(variables, x))


def fragile_logits(variables, x):
    """`linear_logits` that are no numbers for clips with too high a sample."""
    is_fine = jnp.max(x, axis=1, keepdims=True) <= variables["highest"]
    return jnp.where(is_fine, linear_logits(variables, x), jnp.nan)


def headroom_logits(variables, x):
    """`linear_logits` whose gradient is NaN, 0 / 0, for clips near full scale."""
    headroom = jnp.sqrt(jnp.maximum(0.9 - jnp.min(x, axis=1), 0.0))
    return linear_logits(variables, x) + 0.0 * headroom[:, None]


def spectrum_logits(variables, x):
    """Of magnitudes of frames, whose gradient is NaN for digital silence."""
    frames = (x - 0.5).reshape(x.shape[0], -1, 16)
    spectrum = jnp.fft.rfft(frames)
    magnitude = jnp.sqrt(spectrum.real**2 + spectrum.imag**2)
    return linear_logits(variables, x) + jnp.mean(magnitude, axis=1)[:, 1:5]


def constant_logits(variables, x):
    """The same logits whatever the clip, `[B, C]`."""
    return jnp.broadcast_to(variables["bias"][None], (x.shape[0], 3))


def predictions(logits_fn, variables, x):
    """`[B]`, as a NumPy array."""
    return np.asarray(jnp.argmax(jax.jit(logits_fn)(variables, x), axis=1))


def _hash(at):
    """Numbers in [0, 1) that look random and follow from a formula."""
    return np.modf(1e4 * np.abs(np.sin(12.9898 * at + 78.233)))[0]
