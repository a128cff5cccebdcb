"""One training loop for every model: jitted step, best epoch cached, resumable."""

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from uap_jax import checkpoints, environment
from uap_jax.attacks import LogitsFn
from uap_jax.audio.box import to_box
from uap_jax.data.dataset import Dataset, Splits, to_waveform
from uap_jax.models import Architecture
from uap_jax.training.augmentation import augment
from uap_jax.training.recipes import Recipe

EVALUATION_BATCH_SIZE = 64
# Of the device's memory; a training set within it stays on the device.
RESIDENT_SHARE = 0.2
# Steps whose clips are on the device at a time where the training set is larger.
LOADED_STEPS = 64
# Storing takes at most about this part of the time: 1 / SAVE_PAUSE.
SAVE_PAUSE = 10.0


class TrainState(NamedTuple):
    """The stored state of a training; a pytree of arrays."""

    variables: Any
    opt_state: Any
    epoch: jax.Array  # [] int32, completed epochs
    best_variables: Any
    best_accuracy: jax.Array  # [], validation accuracy of best_variables; -1: none yet
    best_epoch: jax.Array  # [] int32


class TrainResult(NamedTuple):
    """A trained network.

    Attributes:
        variables: Weights and statistics of the best epoch.
        validation_accuracy: Its accuracy on the validation clips, in [0, 1].
        best_epoch: Its number, counted from 1.
        num_epochs: Epochs trained in all.
        seconds: Duration of this call; resumed work is not counted.
    """

    variables: Any
    validation_accuracy: float
    best_epoch: int
    num_epochs: int
    seconds: float


def train(
    architecture: Architecture,
    dataset: Dataset,
    splits: Splits,
    *,
    scaling: str,
    recipe: Recipe,
    seed: int,
    workdir: Path,
    on_epoch: Callable[[dict[str, float]], None] = lambda _: None,
    on_step: Callable[[int, int, int], None] = lambda *_: None,
    save_every_s: float = 20.0,
) -> TrainResult:
    """Trains a network on the training clips; returns the best epoch.

    Every random choice follows from the seed and the number of the epoch or step, so
    an interrupted training resumes to the same weights.

    Args:
        architecture: The network.
        dataset: The corpus.
        splits: Its training and validation clips are used.
        scaling: Scaling of waveforms to the box; see `audio.box`.
        recipe: How to train.
        seed: Seed of weights, batches and augmentation.
        workdir: Folder of the checkpoints; a training in it resumes.
        on_epoch: Called after each epoch with its number, loss, accuracy and seconds.
        on_step: Called after some steps with the number of the epoch, of the steps
            done in it and of all its steps.
        save_every_s: Shortest time between two checkpoints; longer where storing takes
            long. 0 stores after each epoch.

    Raises:
        ValueError: Network and corpus do not fit.
        FloatingPointError: The loss is not finite.
    """
    _check_fit(architecture, dataset)
    started = time.perf_counter()
    num_epochs = recipe.num_epochs(len(splits.train))
    batch_size = min(recipe.batch_size, len(splits.train))
    num_steps = len(splits.train) // batch_size
    optimizer = recipe.optimizer(num_epochs * num_steps)
    segment = _compile_segment(architecture, optimizer, recipe, scaling)
    first_state = functools.partial(
        _first_state, architecture, optimizer, jax.random.key(seed)
    )
    with checkpoints.open_checkpoints(workdir) as saved:
        if saved.latest_step() is None:
            state = first_state()
        else:
            # Its shapes are enough, and weights take seconds to compile.
            state = saved.restore(_shapes_of(first_state))
        resident = None
        if int(state.epoch) < num_epochs:
            dataset.ensure(np.concatenate([splits.train, splits.validation]))
            resident = _resident(dataset, splits.train)
        last_save, save_seconds = time.perf_counter(), 0.0
        while (epoch := int(state.epoch)) < num_epochs:
            epoch_started = time.perf_counter()
            state, loss = _train_epoch(
                segment,
                state,
                dataset,
                splits.train,
                resident,
                batch_size,
                np.random.SeedSequence([seed, epoch]),
                recipe.strength((epoch + 1) / num_epochs),
                functools.partial(on_step, epoch + 1),
            )
            accuracy = evaluate_accuracy(
                architecture.logits,
                state.variables,
                dataset,
                splits.validation,
                scaling=scaling,
            )
            if not np.isfinite(loss):
                raise FloatingPointError(
                    f"training stopped: the loss of epoch {epoch + 1} is {loss}"
                )
            state = _keep_best(state, accuracy)
            on_epoch(
                {
                    "epoch": epoch + 1,
                    "num_epochs": num_epochs,
                    "loss": loss,
                    "validation_accuracy": accuracy,
                    "seconds": time.perf_counter() - epoch_started,
                }
            )
            # A large model takes a while to store.
            pause_s = save_every_s and max(save_every_s, SAVE_PAUSE * save_seconds)
            started_save = time.perf_counter()
            if epoch + 1 == num_epochs or started_save - last_save > pause_s:
                saved.save(epoch + 1, state)
                last_save = time.perf_counter()
                save_seconds = last_save - started_save
    return TrainResult(
        variables=state.best_variables,
        validation_accuracy=float(state.best_accuracy),
        best_epoch=int(state.best_epoch),
        num_epochs=num_epochs,
        seconds=time.perf_counter() - started,
    )


def evaluate_accuracy(
    logits_fn: LogitsFn,
    variables: Any,
    dataset: Dataset,
    indices: np.ndarray,
    *,
    scaling: str,
) -> float:
    """Returns the share of clips that are classified correctly, in [0, 1]."""
    dataset.ensure(indices)
    num_right = 0
    for start in range(0, len(indices), EVALUATION_BATCH_SIZE):
        index = indices[start : start + EVALUATION_BATCH_SIZE]
        clips = np.zeros((EVALUATION_BATCH_SIZE, dataset.num_samples), np.float32)
        clips[: len(index)] = to_waveform(dataset.clips[index])
        predictions = np.asarray(_predict(logits_fn, scaling, variables, clips))
        num_right += int(np.sum(predictions[: len(index)] == dataset.labels[index]))
    return num_right / max(len(indices), 1)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _predict(
    logits_fn: LogitsFn, scaling: str, variables: Any, waveform: jax.Array
) -> jax.Array:
    x, _ = to_box(waveform, scaling=scaling)
    return jnp.argmax(logits_fn(variables, x), axis=1)


class _Pool(NamedTuple):
    """Clips on the device, of which a segment takes its batches."""

    clips: jax.Array  # [P, N], int16 or float32
    labels: jax.Array  # [P]
    noise: jax.Array  # [K, N], as `clips`


class _Plan(NamedTuple):
    """What `S` steps take."""

    rows: np.ndarray  # [S, B], of the clips of a pool
    noise_rows: np.ndarray  # [S, B], of its noise
    keys: jax.Array  # [S]


# (variables, opt_state)
_Weights = tuple[Any, Any]
# (weights, losses [S], pool, plan, start, stop, strength) -> (weights, losses)
_Segment = Callable[..., tuple[_Weights, jax.Array]]


def _compile_segment(
    architecture: Architecture,
    optimizer: optax.GradientTransformation,
    recipe: Recipe,
    scaling: str,
) -> _Segment:
    """Returns the steps `start` to `stop` of an epoch as one program.

    A program for each step would have its memory taken from the system, and given
    back, at each step.
    """

    def step(
        weights: _Weights,
        clips: jax.Array,
        background: jax.Array,
        labels: jax.Array,
        key: jax.Array,
        strength: jax.Array,
    ) -> tuple[_Weights, jax.Array]:
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
        weights: _Weights,
        losses: jax.Array,
        pool: _Pool,
        plan: _Plan,
        start: jax.Array,
        stop: jax.Array,
        strength: jax.Array,
    ) -> tuple[_Weights, jax.Array]:
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


def _train_epoch(
    segment: _Segment,
    state: TrainState,
    dataset: Dataset,
    train: np.ndarray,
    resident: _Pool | None,
    batch_size: int,
    seed: np.random.SeedSequence,
    strength: float,
    on_step: Callable[[int, int], None],
) -> tuple[TrainState, float]:
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(train))
    keys = jax.random.split(jax.random.key(int(rng.integers(2**31))), len(order))
    num_steps = len(order) // batch_size
    rows = order[: num_steps * batch_size].reshape(num_steps, batch_size)
    plan = _Plan(
        np.sort(rows, axis=1),
        rng.integers(_num_noise(dataset), size=rows.shape),
        keys[:num_steps],
    )
    carry, losses = (state.variables, state.opt_state), []
    length = num_steps if resident is not None else min(LOADED_STEPS, num_steps)
    max_steps = 1
    for first in range(0, num_steps, length):
        # The last part is filled up to the length of the others with steps not taken.
        steps = np.minimum(first + np.arange(length), num_steps - 1)
        part = _Plan(*(field[steps] for field in plan))
        pool = resident
        if pool is None:
            pool, part = _load(dataset, train, part)
        part_losses = jnp.zeros(length, jnp.float32)
        start, num_part_steps = 0, min(length, num_steps - first)
        while start < num_part_steps:
            began = time.perf_counter()
            stop = min(start + max_steps, num_part_steps)
            carry, part_losses = jax.block_until_ready(
                segment(
                    *(carry, part_losses, pool, part),
                    *(np.int32(start), np.int32(stop), np.float32(strength)),
                )
            )
            max_steps = environment.segment_steps(
                max_steps, time.perf_counter() - began
            )
            start = stop
            on_step(first + start, num_steps)
        losses.append(part_losses[:num_part_steps])
    variables, opt_state = carry
    return (
        state._replace(variables=variables, opt_state=opt_state, epoch=state.epoch + 1),
        float(np.mean(np.concatenate(losses))),
    )


def _resident(dataset: Dataset, train: np.ndarray) -> _Pool | None:
    """Returns all training clips on the device, or None where they do not fit."""
    num_clips = len(train) + _num_noise(dataset)
    num_bytes = num_clips * dataset.num_samples * dataset.clips.dtype.itemsize
    if num_bytes > RESIDENT_SHARE * environment.memory_bytes():
        return None
    return _pool(dataset, train, np.arange(_num_noise(dataset)))


def _load(dataset: Dataset, train: np.ndarray, plan: _Plan) -> tuple[_Pool, _Plan]:
    """Returns the clips of some steps on the device, and the plan on these."""
    pool = _pool(dataset, train[plan.rows.ravel()], plan.noise_rows.ravel())
    rows = np.arange(plan.rows.size).reshape(plan.rows.shape)
    return pool, plan._replace(rows=rows, noise_rows=rows)


def _pool(dataset: Dataset, indices: np.ndarray, noise_indices: np.ndarray) -> _Pool:
    noise = dataset.noise
    if noise is None or not len(noise):
        noise = np.zeros((1, dataset.num_samples), dataset.clips.dtype)
    return jax.device_put(
        _Pool(dataset.clips[indices], dataset.labels[indices], noise[noise_indices])
    )


def _to_waveform(clips: jax.Array) -> jax.Array:
    """`to_waveform`, within a program."""
    if clips.dtype == jnp.int16:
        return clips.astype(jnp.float32) / jnp.float32(32768)
    return clips


def _num_noise(dataset: Dataset) -> int:
    # Without noise there is one clip of silence.
    return max(1, 0 if dataset.noise is None else len(dataset.noise))


def _first_state(
    architecture: Architecture, optimizer: optax.GradientTransformation, key: jax.Array
) -> TrainState:
    variables = architecture.init(key)
    return TrainState(
        variables=variables,
        opt_state=jax.jit(optimizer.init)(variables["params"]),
        epoch=jnp.zeros((), jnp.int32),
        # A copy: the step gives its arguments' memory away.
        best_variables=_copy(variables),
        best_accuracy=jnp.full((), -1.0, jnp.float32),
        best_epoch=jnp.zeros((), jnp.int32),
    )


def _shapes_of(make: Callable[[], TrainState]) -> TrainState:
    """Returns what `make` would, as shapes on the first device."""
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=device),
        jax.eval_shape(make),
    )


@jax.jit
def _copy(tree: Any) -> Any:
    return jax.tree.map(jnp.copy, tree)


def _keep_best(state: TrainState, accuracy: float) -> TrainState:
    # A tie goes to the later epoch, whose learning rate is lower.
    if np.float32(accuracy) < state.best_accuracy:
        return state
    return state._replace(
        best_variables=_copy(state.variables),
        best_accuracy=jnp.asarray(accuracy, jnp.float32),
        best_epoch=state.epoch,
    )


def _check_fit(architecture: Architecture, dataset: Dataset) -> None:
    for name, expected, actual in (
        ("num_samples", architecture.num_samples, dataset.num_samples),
        ("sample_rate_hz", architecture.sample_rate_hz, dataset.sample_rate_hz),
        ("number of classes", architecture.num_classes, len(dataset.class_names)),
    ):
        if expected != actual:
            raise ValueError(
                f"dataset: expected {name} {expected} as {architecture.name} has, "
                f"got {actual}"
            )
