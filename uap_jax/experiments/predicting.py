"""What the model of a finished run says of recordings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from uap_jax import models
from uap_jax.audio.box import to_box
from uap_jax.experiments import artifacts, environment, pipeline
from uap_jax.experiments.console import Console, UsageError, user_mistakes
from uap_jax.experiments.stored import StoredRun, settings_of
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

    The corpus is loaded as well, for it names the classes.

    Raises:
        UsageError: The model is not in the cache, or its corpus is another one now.
    """
    name = run.result["victim"]["name"]
    folder = cache_dir / "models" / name
    if not (folder / "model.json").is_file():
        raise UsageError(
            f"--predict: expected the model {name} in {cache_dir / 'models'}"
        )
    settings = settings_of(run)
    environment.cache_compilations(cache_dir / "compiled")
    dataset, splits = pipeline.load_corpus(settings, cache_dir, False, _Quiet())
    problem = artifacts.read_json(run.workdir / "checkpoints" / "problem.json") or {}
    if problem.get("corpus") != dataset.fingerprint:
        raise UsageError(
            f"--predict: expected the corpus that {name} was trained on, got another "
            f"{dataset.name}"
        )
    spec = models.create(
        settings.model,
        num_classes=len(dataset.class_names),
        num_samples=dataset.num_samples,
    )
    with user_mistakes(), artifacts.locked(folder, wait=True):
        variables = train(
            spec,
            dataset,
            splits,
            scaling=settings.scaling,
            recipe=settings.training,
            seed=settings.seed,
            workdir=folder / "checkpoints",
        ).variables

    @jax.jit
    def classify(variables: Any, waveform: jax.Array) -> jax.Array:
        x, _ = to_box(waveform, scaling=settings.scaling)
        return jnp.argmax(spec.logits(variables, x), axis=1)

    def predict(waveforms: np.ndarray) -> list[str]:
        indices = np.asarray(classify(variables, jnp.asarray(waveforms)))
        return [dataset.class_names[index] for index in indices]

    return Predictor(dataset.sample_rate_hz, dataset.num_samples, predict)


class _Quiet(Console):
    """Shows progress, but says nothing."""

    def say(self, line: str) -> None:
        pass
