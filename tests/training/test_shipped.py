"""Victims in the package: complete, readable, and as accurate as they say."""

import dataclasses
import os

import jax
import numpy as np
import pytest

from uap_jax import files, models
from uap_jax.console import Console
from uap_jax.errors import UsageError
from uap_jax.runs import victim
from uap_jax.runs.config import RunConfig
from uap_jax.runs.corpus import load_corpus
from uap_jax.runs.resolve import resolve
from uap_jax.training import shipped
from uap_jax.training.loop import evaluate_accuracy

NAMES = shipped.names()


@pytest.fixture(scope="module")
def architecture():
    return models.create("spchcmd", num_classes=3, num_samples=5_100)


@pytest.fixture(scope="module")
def variables(architecture):
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(architecture.init, jax.random.key(0))
    return jax.tree.map(
        lambda leaf: rng.uniform(0.01, 0.1, leaf.shape).astype(np.float32), shapes
    )


def test_weights_are_rounded_to_half_precision_and_statistics_are_not(
    architecture, variables
):
    variables["batch_stats"] = jax.tree.map(
        lambda a: a + 1e-6, variables["batch_stats"]
    )
    read = shipped.unpack(shipped.pack(variables), architecture)
    assert jax.tree.structure(read) == jax.tree.structure(variables)
    for part, rtol in (("params", 2.0**-10), ("batch_stats", 0.0)):
        for one, other in zip(
            jax.tree.leaves(read[part]), jax.tree.leaves(variables[part]), strict=True
        ):
            assert one.dtype == np.float32
            np.testing.assert_allclose(one, other, rtol=rtol, atol=1e-7 * (rtol > 0))


def test_stored_weights_are_stored_again_without_a_change(architecture, variables):
    once = shipped.unpack(shipped.pack(variables), architecture)
    assert shipped.pack(once) == shipped.pack(variables)


@pytest.mark.parametrize(
    ("value", "rounded"),
    [
        (1.0, 1.0),
        (1 + 2.0**-10, 1.0),  # half of the last place: to even
        (-(1 + 3 * 2.0**-10), -(1 + 2.0**-8)),
        (1 / 3, 683 / 2**11),
        (2 - 2.0**-10, 2.0),  # a carry into the exponent
        (0.0, 0.0),
    ],
)
def test_mantissa_is_rounded_to_the_nearest(value, rounded):
    assert shipped._round_mantissa(np.array([value], np.float32))[0] == rounded


def test_damaged_file_is_the_users_to_mend(
    architecture, variables, tmp_path, monkeypatch
):
    facts = {"model": "spchcmd", "class_names": ["a", "b", "c"], "num_samples": 5_100}
    shipped.store(tmp_path, "one", variables, facts)
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    assert shipped.describe("none") is None
    with pytest.raises(UsageError, match="expected one of one, got none"):
        shipped.load("none")
    classifier = shipped.load("one")
    assert classifier.class_names == ("a", "b", "c")
    x = np.full((2, 5_100), 0.5, np.float32)
    logits_fn = jax.jit(architecture.logits)
    np.testing.assert_allclose(
        logits_fn(classifier.variables, x),
        logits_fn(variables, x),
        rtol=0.02,
        atol=1e-3,
    )
    path = tmp_path / "one.npz"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UsageError, match=r"one\.npz: damaged; install uap_jax again"):
        shipped.load("one")


def test_package_has_the_default_victims_and_three_of_real_speech():
    facts = [shipped.describe(name) for name in NAMES]
    kinds = sorted((f["model"], f["dataset"], f["scaling"], f["seed"]) for f in facts)
    assert kinds == [
        ("cnn_rand", "synthetic_urban", "fixed", 0),
        *(("spchcmd", "speech_commands", "peak", seed) for seed in range(3)),
        ("spchcmd", "synthetic_speech", "fixed", 0),
    ]


def test_victims_are_small():
    assert sum(path.stat().st_size for path in shipped.FOLDER.iterdir()) < 8e6


@pytest.mark.parametrize("name", NAMES)
def test_victim_says_where_it_is_from(name):
    facts = shipped.describe(name)
    assert facts["name"] == name
    settings = {"dataset": facts["dataset"], "scaling": facts["scaling"]}
    if facts["dataset"] == "speech_commands":
        assert "CC BY 4.0" in facts["data_licence"]
        settings["data_dir"] = str(shipped.FOLDER)
    # The recipe of today, or the package would train where it says it need not.
    recipe = resolve(RunConfig(model=facts["model"], **settings)).training
    assert facts["recipe"] == files.fingerprint(dataclasses.asdict(recipe))
    both = facts["in_full_precision"]
    assert facts["validation_accuracy"] == pytest.approx(both["validation"], abs=0.01)
    classifier = shipped.load(name)
    assert classifier.class_names == tuple(facts["class_names"])
    for leaf in jax.tree.leaves(classifier.variables):
        assert np.all(np.isfinite(leaf))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_victim_trained_anew_is_as_accurate(name, tmp_path):
    facts = shipped.describe(name)
    settings = {"dataset": facts["dataset"], "scaling": facts["scaling"]}
    if facts["dataset"] == "speech_commands":
        settings["data_dir"] = os.environ.get("UAP_JAX_SPEECH_COMMANDS_DIR")
        if settings["data_dir"] is None:
            pytest.skip("UAP_JAX_SPEECH_COMMANDS_DIR: the folder of the recordings")
    config = resolve(
        RunConfig(model=facts["model"], seed=facts["seed"], retrain=True, **settings)
    )
    options = {"cache_dir": tmp_path, "console": Console()}
    corpus = load_corpus(config, strict=True, **options)
    assert corpus.dataset.fingerprint == facts["corpus"]
    trained = victim.prepare(config, corpus, **options)
    assert trained.facts["name"] == name
    accuracy = evaluate_accuracy(
        trained.classifier.logits,
        trained.classifier.variables,
        corpus.dataset,
        corpus.splits.test,
        scaling=config.scaling,
    )
    assert accuracy == pytest.approx(facts["test_accuracy"], abs=0.02)
