"""Training: it learns, goes on bit by bit after a kill, and keeps the best epoch."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uap_jax import models
from uap_jax.audio.box import to_box
from uap_jax.data.dataset import Dataset, Splits, to_waveform
from uap_jax.models import registry
from uap_jax.training import epoch, loop
from uap_jax.training.recipes import RECIPES, Recipe

NUM_SAMPLES = 5_100
CLASS_NAMES = ("low", "middle", "high")
NUM_EPOCHS = 5
KILLED_IN = 3
# The tie of the second and fourth epoch goes to the fourth.
ACCURACIES = (0.1, 0.6, 0.3, 0.6, 0.2)
SEED = 7


class Run(NamedTuple):
    """A training, and its records and weights after every epoch."""

    result: loop.TrainResult
    epochs: list[dict[str, float]]
    variables: list[Any]


class KilledError(Exception):
    """Stands for the end of the process."""


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """Tones of three pitches at random phases and levels."""
    rng = np.random.default_rng(0)
    labels = np.arange(90, dtype=np.int32) % 3
    pitch_hz = np.asarray([300.0, 1000.0, 3000.0])[labels][:, None]
    phase = rng.uniform(0, 2 * np.pi, (90, 1))
    sound = np.sin(2 * np.pi * pitch_hz * np.arange(NUM_SAMPLES) / 16_000 + phase)
    sound = 0.3 * sound + 0.05 * rng.normal(size=sound.shape)
    names = np.asarray([f"{index:02}" for index in range(90)])
    return Dataset(
        name="tones",
        clips=np.round(32767 * np.clip(sound, -1, 1)).astype(np.int16),
        labels=labels,
        class_names=CLASS_NAMES,
        groups=names,
        names=names,
        sample_rate_hz=16_000,
        fingerprint="tones",
        noise=np.round(300 * rng.normal(size=(4, NUM_SAMPLES))).astype(np.int16),
    )


@pytest.fixture(scope="module")
def splits() -> Splits:
    # A last batch of 2 of 8 is left out of each epoch.
    return Splits(np.arange(50), np.arange(50, 60), np.arange(60, 90))


class Toy(nn.Module):
    """All that the loop has to handle, statistics and dropout, and soon compiled."""

    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        x = nn.Dense(16)(x.reshape(x.shape[0], -1, 20) - 0.5)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.5)(x))
        x = nn.Dropout(0.1, deterministic=not train)(jnp.mean(x, axis=1))
        return nn.Dense(self.num_classes)(x)


@pytest.fixture(scope="module")
def architecture() -> models.Architecture:
    module = Toy(len(CLASS_NAMES))
    return registry.as_functions(module, name="toy", num_samples=NUM_SAMPLES)


def train(
    architecture: models.Architecture,
    dataset: Dataset,
    splits: Splits,
    workdir: Path,
    *,
    killed_in: int | None = None,
) -> Run:
    """Trains with the accuracies of `ACCURACIES` in place of measured ones."""
    epochs, variables = [], []

    def note(record):
        if record["epoch"] == killed_in:
            raise KilledError
        epochs.append(dict(record))

    def scripted(_logits_fn, weights, *_args, **_settings):
        variables.append(jax.device_get(weights))
        return ACCURACIES[first + len(variables) - 1]

    first = KILLED_IN - 1 if workdir.exists() else 0
    recipe = Recipe(
        num_clips_seen=NUM_EPOCHS * len(splits.train),
        batch_size=8,
        ramp_share=0.5,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "evaluate_accuracy", scripted)
        result = loop.train(
            architecture,
            dataset,
            splits,
            scaling="fixed",
            recipe=recipe,
            seed=SEED,
            workdir=workdir,
            on_epoch=note,
            save_every_s=0.0,
        )
    return Run(result, epochs, variables)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("training")


@pytest.fixture(scope="module")
def whole(architecture, dataset, splits, folder) -> Run:
    """A training without interruption."""
    return train(architecture, dataset, splits, folder / "whole")


@pytest.fixture(scope="module")
def resumed(architecture, dataset, splits, folder) -> Run:
    """The same, killed before the third epoch was saved, and gone on with."""
    with pytest.raises(KilledError):
        train(architecture, dataset, splits, folder / "killed", killed_in=KILLED_IN)
    return train(architecture, dataset, splits, folder / "killed")


def assert_same(first: Any, second: Any) -> None:
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for one, other in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.slow
def test_network_learns_tones_in_a_few_steps(architecture, dataset, splits, tmp_path):
    losses = []
    result = loop.train(
        architecture,
        dataset,
        splits,
        scaling="fixed",
        recipe=Recipe(num_clips_seen=400, batch_size=8, peak_learning_rate=3e-2),
        seed=SEED,
        workdir=tmp_path,
        on_epoch=lambda record: losses.append(record["loss"]),
        save_every_s=1e6,
    )
    assert len(losses) == result.num_epochs == 8
    assert losses[-1] < 0.7 * losses[0]
    assert result.validation_accuracy > 0.8


def test_best_epoch_is_kept_and_every_epoch_reported(whole):
    assert [record["epoch"] for record in whole.epochs] == [1, 2, 3, 4, 5]
    assert {record["num_epochs"] for record in whole.epochs} == {NUM_EPOCHS}
    told = [record["validation_accuracy"] for record in whole.epochs]
    assert told == list(ACCURACIES)
    assert whole.result.best_epoch == 4
    assert whole.result.num_epochs == NUM_EPOCHS
    assert whole.result.validation_accuracy == pytest.approx(0.6)
    assert_same(whole.result.variables, whole.variables[3])


def test_killed_training_ends_with_the_same_bits(whole, resumed):
    assert [record["epoch"] for record in resumed.epochs] == [3, 4, 5]
    for record, expected in zip(resumed.epochs, whole.epochs[2:], strict=True):
        assert record["loss"] == expected["loss"]
    assert_same(resumed.result.variables, whole.result.variables)
    assert_same(resumed.variables[-1], whole.variables[-1])
    assert resumed.result.best_epoch == whole.result.best_epoch


@pytest.mark.parametrize("loaded_steps", [4, 100])
def test_clips_that_do_not_fit_on_the_device_give_the_same_bits(
    whole, architecture, dataset, splits, tmp_path, monkeypatch, loaded_steps
):
    monkeypatch.setattr(epoch, "RESIDENT_SHARE", 0.0)
    monkeypatch.setattr(epoch, "LOADED_STEPS", loaded_steps)
    loaded = train(architecture, dataset, splits, tmp_path / "new")
    assert_same(loaded.result.variables, whole.result.variables)
    assert [one["loss"] for one in loaded.epochs] == [
        one["loss"] for one in whole.epochs
    ]


def test_segments_are_told_and_do_not_change_the_bits(
    architecture, dataset, splits, monkeypatch
):
    recipe = Recipe(num_clips_seen=50, batch_size=8)
    optimizer = recipe.optimizer(6)

    def trained(segment_steps):
        monkeypatch.setattr(epoch.environment, "segment_steps", segment_steps)
        variables = architecture.init(jax.random.key(0))
        steps = []
        weights, loss = epoch.train_epoch(
            epoch.compile_segment(architecture, optimizer, recipe, "fixed"),
            (variables, optimizer.init(variables["params"])),
            epoch.open_source(dataset, splits.train, batch_size=8),
            seed=np.random.SeedSequence(0),
            strength=1.0,
            on_step=lambda done, total: steps.append((done, total)),
        )
        return weights, loss, steps

    one_by_one, many = trained(lambda *_: 1), trained(lambda *_: 5)
    assert one_by_one[2] == [(step, 6) for step in range(1, 7)]
    assert many[2] == [(1, 6), (6, 6)]
    assert_same(one_by_one[:2], many[:2])


def test_finished_training_is_only_read(whole, architecture, dataset, splits, folder):
    again = train(architecture, dataset, splits, folder / "whole")
    assert again.epochs == []
    assert_same(again.result.variables, whole.result.variables)
    assert again.result.best_epoch == 4


def test_weights_and_statistics_both_move(whole, architecture):
    before = architecture.init(jax.random.key(SEED))
    for part in ("params", "batch_stats"):
        moved = [
            not np.array_equal(one, other)
            for one, other in zip(
                jax.tree.leaves(before[part]),
                jax.tree.leaves(whole.variables[0][part]),
                strict=True,
            )
        ]
        assert all(moved), part


@pytest.mark.parametrize("num_clips", [10, 64, 90])
def test_accuracy_counts_every_clip_once(whole, architecture, dataset, num_clips):
    variables = whole.variables[-1]
    x, _ = to_box(jnp.asarray(to_waveform(dataset.clips)), scaling="fixed")
    # One shape for all cases, as large as the blocks of the evaluation.
    blocks = [x[:64], jnp.concatenate([x[64:], x[:38]])]
    predict = jax.jit(lambda x: jnp.argmax(architecture.logits(variables, x), axis=1))
    predictions = np.concatenate([predict(block) for block in blocks])[:90]
    # Wrong labels for a third, so that the share to be found is neither 0 nor 1.
    labels = np.where(np.arange(90) % 3, predictions, (predictions + 1) % 3)
    accuracy = loop.evaluate_accuracy(
        architecture.logits,
        variables,
        dataclasses.replace(dataset, labels=labels.astype(np.int32)),
        np.arange(90)[-num_clips:],
        scaling="fixed",
    )
    expected = np.mean(np.arange(90)[-num_clips:] % 3 > 0)
    assert accuracy == pytest.approx(expected)


def test_non_finite_loss_is_an_error(
    architecture, dataset, splits, tmp_path, monkeypatch
):
    def diverge(_segment, weights, _source, **_settings):
        return weights, float("nan")

    monkeypatch.setattr(loop, "train_epoch", diverge)
    with pytest.raises(FloatingPointError, match="the loss of epoch 1 is nan"):
        train(architecture, dataset, splits, tmp_path / "new")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"num_classes": 4},
            "dataset: expected number of classes 4 as spchcmd has, got 3",
        ),
        ({"num_samples": 6_000}, "dataset: expected num_samples 6000 .* got 5100"),
    ],
)
def test_model_and_corpus_must_fit(settings, message, dataset, splits, tmp_path):
    settings = {"num_classes": 3, "num_samples": NUM_SAMPLES, **settings}
    with pytest.raises(ValueError, match=message):
        train(models.create("spchcmd", **settings), dataset, splits, tmp_path / "new")


def test_epochs_and_strength_follow_from_the_recipe():
    recipe = Recipe(num_clips_seen=1000, ramp_share=0.2)
    assert [recipe.num_epochs(num) for num in (100, 300, 5000)] == [10, 3, 1]
    strengths = [recipe.strength(share) for share in (0.05, 0.1, 0.2, 0.7, 1.0)]
    assert strengths == pytest.approx([0.25, 0.5, 1.0, 1.0, 1.0])
    assert Recipe(ramp_share=0.0).strength(0.01) == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 0},
        {"peak_learning_rate": 0.0},
        {"peak_learning_rate": 1e-50},
        {"num_clips_seen": 10**11},
        {"label_smoothing": 1.0},
    ],
)
def test_settings_out_of_range_are_named(settings):
    with pytest.raises(ValueError, match=f"^{next(iter(settings))}: expected"):
        Recipe(**settings)


def test_every_model_has_a_recipe():
    assert set(RECIPES) == set(models.MODEL_NAMES)


def test_rate_warms_up_and_decay_is_on_kernels_only():
    recipe = Recipe(peak_learning_rate=0.1, warmup_share=0.5, weight_decay=0.5)
    optimizer = recipe.optimizer(4)
    params = {"kernel": jnp.ones((2, 2)), "scale": jnp.ones(2)}
    nothing = jax.tree.map(jnp.zeros_like, params)
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    shrinks = []
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(5):
            updates, state = update(nothing, state, params)
            assert not updates["scale"].any()
            shrinks.append(-float(updates["kernel"][0, 0]) / 0.5)
    assert shrinks == pytest.approx([0.0, 0.05, 0.1, 0.05, 0.0], abs=1e-6)
