"""Trains the victims that come with the package, and stores them in it.

    python experiments/results/victims.py --data_dir=speech_commands_test_set_v0.02

A victim that is in the cache already is not trained again.
"""

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from uap_jax import environment
from uap_jax.console import Console
from uap_jax.files import default_cache_dir, fingerprint
from uap_jax.models import Architecture, create
from uap_jax.runs import victim
from uap_jax.runs.config import RunConfig
from uap_jax.runs.corpus import Corpus, load_corpus
from uap_jax.runs.resolve import resolve
from uap_jax.training import shipped
from uap_jax.training.loop import evaluate_accuracy

DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "The official test set of Speech Commands.", required=True
)
CACHE_DIR = flags.DEFINE_string("cache_dir", None, "Default: that of runs.")
OUTPUT = flags.DEFINE_string("output", str(shipped.FOLDER), "Where the files go.")

# Named by the licence of the recordings; the built-in corpora have none.
LICENCES = {
    "speech_commands": "Speech Commands v0.02, P. Warden, Google: CC BY 4.0",
    "synthetic_speech": "rendered by espeak-ng; no recordings",
    "synthetic_urban": "rendered; no recordings",
}
# Half precision may cost this much accuracy on the clips that were not trained on.
MAX_LOSS = 0.002


def main(_: list[str]) -> None:
    cache_dir = Path(CACHE_DIR.value or default_cache_dir())
    environment.cache_compilations(cache_dir / "compiled")
    real: dict[str, Any] = {"dataset": "speech_commands", "data_dir": DATA_DIR.value}
    for settings in (
        {"model": "spchcmd"},
        {"model": "cnn_rand"},
        *({"model": "spchcmd", "scaling": "peak", "seed": s, **real} for s in range(3)),
    ):
        pack(settings, cache_dir)


def pack(settings: dict[str, Any], cache_dir: Path) -> None:
    """Trains a victim, or reads it, and stores it in the package."""
    console = Console()
    config = resolve(RunConfig(**settings, retrain=True))
    corpus = load_corpus(config, cache_dir=cache_dir, strict=True, console=console)
    trained = victim.prepare(config, corpus, cache_dir=cache_dir, console=console)
    architecture = create(
        config.model,
        num_classes=len(corpus.dataset.class_names),
        num_samples=corpus.dataset.num_samples,
    )
    full = trained.classifier.variables
    half = shipped.unpack(shipped.pack(full), architecture)
    before = accuracies(architecture, full, corpus, config.scaling)
    after = accuracies(architecture, half, corpus, config.scaling)
    if after["both"] < before["both"] - MAX_LOSS:
        raise SystemExit(f"{trained.facts['name']}: {before} fell to {after}")
    words = [f"--{key}={value}" for key, value in settings.items() if key != "data_dir"]
    words += ["--data_dir=FOLDER"] if config.data_dir else []
    command = shlex.join(["uap-jax", "train", *words, "--retrain"])
    dataset = corpus.dataset
    facts = {
        "name": trained.facts["name"],
        "model": config.model,
        "dataset": dataset.name,
        "data_licence": LICENCES[dataset.name],
        "class_names": list(dataset.class_names),
        "num_samples": dataset.num_samples,
        "scaling": config.scaling,
        "seed": config.seed,
        "command": command,
        "validation_accuracy": after["validation"],
        "test_accuracy": after["test"],
        "in_full_precision": before,
        "best_epoch": trained.facts["best_epoch"],
        "num_epochs": trained.facts["num_epochs"],
        "recipe": fingerprint(dataclasses.asdict(config.training)),
        "corpus": dataset.fingerprint,
        "versions": environment.versions(),
        "hardware": environment.hardware(),
    }
    shipped.store(Path(OUTPUT.value), facts["name"], half, facts)
    size = (Path(OUTPUT.value) / f"{facts['name']}.npz").stat().st_size
    console.say(f"{facts['name']}: {after}, {size / 1e6:.2f} MB")


def accuracies(
    architecture: Architecture, variables: Any, corpus: Corpus, scaling: str
) -> dict[str, float]:
    """Returns the accuracies on validation and test clips, and on both together."""
    validation, test = corpus.splits.validation, corpus.splits.test
    both = np.concatenate([validation, test])
    splits = {"validation": validation, "test": test, "both": both}
    return {
        name: evaluate_accuracy(
            architecture.logits,
            variables,
            corpus.dataset,
            indices,
            scaling=scaling,
        )
        for name, indices in splits.items()
    }


if __name__ == "__main__":
    app.run(main)
