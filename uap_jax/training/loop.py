"""One training loop for every model; the best epoch is kept, a kill loses little."""

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from uap_jax import checkpoints
from uap_jax.attacks import LogitsFn
from uap_jax.attacks.equations import classify
from uap_jax.audio.box import to_box
from uap_jax.data.dataset import Dataset, Splits, to_waveform
from uap_jax.models import Architecture
from uap_jax.training.epoch import compile_segment, open_source, train_epoch
from uap_jax.training.recipes import Recipe

EVALUATION_BATCH_SIZE = 64
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
    segment = compile_segment(architecture, optimizer, recipe, scaling)
    first_state = functools.partial(
        _first_state, architecture, optimizer, jax.random.key(seed)
    )
    with checkpoints.open_checkpoints(workdir) as saved:
        if saved.latest_step() is None:
            state = first_state()
        else:
            # Its shapes are enough, and weights take seconds to compile.
            state = saved.restore(_shapes_of(first_state))
        source = None
        last_save, save_seconds = time.perf_counter(), 0.0
        while (epoch := int(state.epoch)) < num_epochs:
            if source is None:
                dataset.ensure(np.concatenate([splits.train, splits.validation]))
                source = open_source(dataset, splits.train, batch_size=batch_size)
            epoch_started = time.perf_counter()
            weights, loss = train_epoch(
                segment,
                (state.variables, state.opt_state),
                source,
                seed=np.random.SeedSequence([seed, epoch]),
                strength=recipe.strength((epoch + 1) / num_epochs),
                on_step=functools.partial(on_step, epoch + 1),
            )
            variables, opt_state = weights
            state = state._replace(
                variables=variables, opt_state=opt_state, epoch=state.epoch + 1
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
    return classify(logits_fn(variables, x))


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
