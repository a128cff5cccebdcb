"""What the model of a finished run says of recordings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from uap_jax import files, models
from uap_jax.audio.box import to_box
from uap_jax.data.dataset import Dataset, Splits
from uap_jax.errors import UsageError, user_mistakes
from uap_jax.runs import beginning, custom_models, environment
from uap_jax.runs.config import RunConfig
from uap_jax.runs.console import Console
from uap_jax.runs.stored import StoredRun, settings_of
from uap_jax.training.loop import train


class Predictor(NamedTuple):
    """A trained classifier of waveforms.

    Attributes:
        sample_rate_hz: Of what it hears.
        num_samples: Of what it hears, N.
        predict: From waveforms `[B, N]` float32 in [-1, 1] to B names of classes;
            compiled anew for each B.
    """

    sample_rate_hz: int
    num_samples: int
    predict: Callable[[np.ndarray], list[str]]


def load_predictor(run: StoredRun, *, cache_dir: Path) -> Predictor:
    """Returns the model that a run attacked; nothing is trained.

    The corpus is loaded as well where it is what names the classes.

    Raises:
        UsageError: The model is not there, or its corpus is another one now.
    """
    if run.config.get("own_model") is None:
        _check_cached(run, cache_dir)
    settings = settings_of(run)
    environment.cache_compilations(cache_dir / "compiled")
    own = custom_models.load(settings.model)
    if own is None:
        classifier = _trained(run, settings, cache_dir)
    else:
        classifier, _ = own
    stated = classifier.class_names
    names = stated or _load_corpus(run, settings, cache_dir)[0].class_names

    @jax.jit
    def classify(variables: Any, waveform: jax.Array) -> jax.Array:
        x, _ = to_box(waveform, scaling=settings.scaling)
        return jnp.argmax(classifier.logits(variables, x), axis=1)

    def predict(waveforms: np.ndarray) -> list[str]:
        indices = np.asarray(classify(classifier.variables, jnp.asarray(waveforms)))
        return [names[index] for index in indices]

    return Predictor(settings.sample_rate_hz, settings.num_samples, predict)


def _model_folder(run: StoredRun, cache_dir: Path) -> Path:
    return cache_dir / "models" / run.result["victim"]["name"]


def _check_cached(run: StoredRun, cache_dir: Path) -> None:
    folder = _model_folder(run, cache_dir)
    if not (folder / "model.json").is_file():
        raise UsageError(
            f"--predict: expected the model {folder.name} in {folder.parent}"
        )


def _trained(run: StoredRun, settings: RunConfig, cache_dir: Path) -> models.Classifier:
    """Returns a model of the registry with its weights in the cache."""
    dataset, splits = _load_corpus(run, settings, cache_dir)
    architecture = models.create(
        settings.model,
        num_classes=len(dataset.class_names),
        num_samples=dataset.num_samples,
    )
    folder = _model_folder(run, cache_dir)
    with user_mistakes(), files.locked(folder, wait=True):
        result = train(
            architecture,
            dataset,
            splits,
            scaling=settings.scaling,
            recipe=settings.training,
            seed=settings.seed,
            workdir=folder / "checkpoints",
        )
    return architecture.classifier(result.variables, dataset.class_names)


def _load_corpus(
    run: StoredRun, settings: RunConfig, cache_dir: Path
) -> tuple[Dataset, Splits]:
    dataset, splits = beginning.load_corpus(settings, cache_dir, False, _Quiet())
    problem = files.read_json(run.workdir / "checkpoints" / "problem.json") or {}
    if problem.get("corpus") != dataset.fingerprint:
        raise UsageError(
            f"--predict: expected the corpus that {run.result['victim']['name']} was "
            f"trained on, got another {dataset.name}"
        )
    return dataset, splits


class _Quiet(Console):
    """Shows progress, but says nothing."""

    def say(self, line: str) -> None:
        pass
