"""One epoch of a training as compiled segments of several steps each."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from uap_jax import environment
from uap_jax.data.dataset import Dataset
from uap_jax.models import Architecture
from uap_jax.training.augmentation import augment
from uap_jax.training.recipes import Recipe

# Of the device's memory; a training set within it stays on the device.
RESIDENT_SHARE = 0.2
# Steps whose clips are on the device at a time where the training set is larger.
LOADED_STEPS = 64


class Pool(NamedTuple):
    """Clips on the device, of which a segment takes its batches."""

    clips: jax.Array  # [P, N], int16 or float32
    labels: jax.Array  # [P]
    noise: jax.Array  # [K, N], as `clips`


class Source(NamedTuple):
    """Training clips, and how many a step takes."""

    dataset: Dataset
    train: np.ndarray  # indices
    batch_size: int
    resident: Pool | None  # all of them on the device, where they fit


class Plan(NamedTuple):
    """What `S` steps take."""

    rows: np.ndarray  # [S, B], of the clips of a pool
    noise_rows: np.ndarray  # [S, B], of its noise
    keys: jax.Array  # [S]


# (variables, opt_state)
Weights = tuple[Any, Any]
# (weights, losses [S], pool, plan, start, stop, strength) -> (weights, losses)
Segment = Callable[..., tuple[Weights, jax.Array]]


def compile_segment(
    architecture: Architecture,
    optimizer: optax.GradientTransformation,
    recipe: Recipe,
    scaling: str,
) -> Segment:
    """Returns the steps `start` to `stop` of an epoch as one program.

    A program for each step would have its memory taken from the system, and given
    back, at each step.
    """

    def step(
        weights: Weights,
        clips: jax.Array,
        background: jax.Array,
        labels: jax.Array,
        key: jax.Array,
        strength: jax.Array,
    ) -> tuple[Weights, jax.Array]:
        variables, opt_state = weights
        augment_key, dropout_key = jax.random.split(key)
        x = augment(
            clips,
            background,
            augment_key,
            strength=strength,
            scaling=scaling,
            sample_rate_hz=architecture.sample_rate_hz,
            config=recipe.augmentation,
        )
        targets = optax.smooth_labels(
            jax.nn.one_hot(labels, architecture.num_classes), recipe.label_smoothing
        )
        params = variables["params"]
        frozen = {name: part for name, part in variables.items() if name != "params"}

        def loss_fn(params: Any) -> tuple[jax.Array, Any]:
            trained = {"params": params, **frozen}
            logits, statistics = architecture.apply_train(trained, x, dropout_key)
            return jnp.mean(optax.softmax_cross_entropy(logits, targets)), statistics

        (loss, statistics), gradient = jax.value_and_grad(loss_fn, has_aux=True)(params)
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimizer.update(gradient, opt_state, params)
            params = optax.apply_updates(params, updates)
        return ({**frozen, **statistics, "params": params}, opt_state), loss

    def segment(
        weights: Weights,
        losses: jax.Array,
        pool: Pool,
        plan: Plan,
        start: jax.Array,
        stop: jax.Array,
        strength: jax.Array,
    ) -> tuple[Weights, jax.Array]:
        def body(index: jax.Array, carry: Any) -> Any:
            weights, losses = carry
            rows = plan.rows[index]
            weights, loss = step(
                weights,
                _to_waveform(pool.clips[rows]),
                _to_waveform(pool.noise[plan.noise_rows[index]]),
                pool.labels[rows],
                plan.keys[index],
                strength,
            )
            return weights, losses.at[index].set(loss)

        return jax.lax.fori_loop(start, stop, body, (weights, losses))

    return jax.jit(segment, donate_argnums=(0, 1))


def open_source(dataset: Dataset, train: np.ndarray, *, batch_size: int) -> Source:
    """Returns the clips `train` of a dataset, on the device if they fit."""
    num_clips = len(train) + _num_noise(dataset)
    num_bytes = num_clips * dataset.num_samples * dataset.clips.dtype.itemsize
    resident = None
    if num_bytes <= RESIDENT_SHARE * environment.memory_bytes():
        resident = _pool(dataset, train, np.arange(_num_noise(dataset)))
    return Source(dataset, train, batch_size, resident)


def train_epoch(
    segment: Segment,
    weights: Weights,
    source: Source,
    *,
    seed: np.random.SeedSequence,
    strength: float,
    on_step: Callable[[int, int], None],
) -> tuple[Weights, float]:
    """Takes the steps of one epoch; the last clips that fill no batch are left out.

    Args:
        segment: See `compile_segment`.
        weights: Given away.
        source: The training clips.
        seed: Of the order of the clips, of background noise and augmentation.
        strength: `[]` of the augmentation, in [0, 1].
        on_step: Called after some steps with their number and that of all steps.

    Returns:
        The weights, and the mean loss.
    """
    dataset, train, batch_size, resident = source
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(train))
    keys = jax.random.split(jax.random.key(int(rng.integers(2**31))), len(order))
    num_steps = len(order) // batch_size
    rows = order[: num_steps * batch_size].reshape(num_steps, batch_size)
    plan = Plan(
        np.sort(rows, axis=1),
        rng.integers(_num_noise(dataset), size=rows.shape),
        keys[:num_steps],
    )
    losses = []
    length = num_steps if resident is not None else min(LOADED_STEPS, num_steps)
    max_steps = 1
    for first in range(0, num_steps, length):
        # The last part is filled up to the length of the others with steps not taken.
        steps = np.minimum(first + np.arange(length), num_steps - 1)
        part = jax.tree.map(lambda field, steps=steps: field[steps], plan)
        pool = resident
        if pool is None:
            pool, part = _load(dataset, train, part)
        part_losses = jnp.zeros(length, jnp.float32)
        start, num_part_steps = 0, min(length, num_steps - first)
        while start < num_part_steps:
            began = time.perf_counter()
            stop = min(start + max_steps, num_part_steps)
            weights, part_losses = jax.block_until_ready(
                segment(
                    *(weights, part_losses, pool, part),
                    *(np.int32(start), np.int32(stop), np.float32(strength)),
                )
            )
            max_steps = environment.segment_steps(
                max_steps, time.perf_counter() - began
            )
            start = stop
            on_step(first + start, num_steps)
        losses.append(part_losses[:num_part_steps])
    return weights, float(np.mean(np.concatenate(losses)))


def _load(dataset: Dataset, train: np.ndarray, plan: Plan) -> tuple[Pool, Plan]:
    """Returns the clips of some steps on the device, and the plan on these."""
    pool = _pool(dataset, train[plan.rows.ravel()], plan.noise_rows.ravel())
    rows = np.arange(plan.rows.size).reshape(plan.rows.shape)
    return pool, plan._replace(rows=rows, noise_rows=rows)


def _pool(dataset: Dataset, indices: np.ndarray, noise_indices: np.ndarray) -> Pool:
    noise = dataset.noise
    if noise is None or not len(noise):
        noise = np.zeros((1, dataset.num_samples), dataset.clips.dtype)
    return Pool(
        jnp.asarray(dataset.clips[indices]),
        jnp.asarray(dataset.labels[indices]),
        jnp.asarray(noise[noise_indices]),
    )


def _to_waveform(clips: jax.Array) -> jax.Array:
    """`to_waveform`, within a program."""
    if clips.dtype == jnp.int16:
        return clips.astype(jnp.float32) / jnp.float32(32768)
    return clips


def _num_noise(dataset: Dataset) -> int:
    # Without noise there is one clip of silence.
    return max(1, 0 if dataset.noise is None else len(dataset.noise))
