"""The classifier under attack: given, trained already in the cache, or trained now."""

import contextlib
import dataclasses
import functools
import os
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from uap_jax import environment, files, models
from uap_jax.attacks.equations import classify
from uap_jax.audio.box import to_box
from uap_jax.bridges import custom_models
from uap_jax.bridges.checks import check_outputs
from uap_jax.console import Console
from uap_jax.data.dataset import to_waveform
from uap_jax.errors import UsageError, user_mistakes
from uap_jax.files import fingerprint
from uap_jax.models import Classifier, sinc
from uap_jax.models.detectors import detected
from uap_jax.runs.classes import clips_to_change
from uap_jax.runs.config import RunConfig
from uap_jax.runs.corpus import (
    Clips,
    Corpus,
    Latest,
    attack_candidates,
    load_corpus,
)
from uap_jax.runs.same_weights import difference_from
from uap_jax.runs.store import NOT_FINITE, PROBLEM, StoredRun, config_of
from uap_jax.text import format_seconds
from uap_jax.training import shipped
from uap_jax.training.loop import evaluate_accuracy, train

# Raised when the same settings give other weights.
_VERSION = 1
# Clips whose logits are checked.
NUM_CHECKED = 32
# Tells the weights of the package from those of the same training on this machine.
SHIPPED_SUFFIX = "-shipped"


class Victim(NamedTuple):
    """A trained classifier, facts about its training, and the time that took here."""

    classifier: Classifier
    facts: dict[str, Any]
    seconds: float


# Models can be large.
_victims: Latest[Victim] = Latest(1)


def prepare(
    config: RunConfig, corpus: Corpus, *, cache_dir: Path, console: Console
) -> Victim:
    """Returns the trained classifier of a run; trains it if it is not in the cache.

    Raises:
        UsageError: Model and corpus do not fit, or a custom model cannot be used.
        FloatingPointError: The loss of the training became non-finite.
    """
    if config.own_model is not None:
        # By its content, which may change.
        own = config.own_model["fingerprint"]
        key = (config.model, own, str(corpus_key(corpus)), config.present)
        make = _given
    else:
        key = (model_folder(config, corpus, cache_dir), config.retrain)
        make = _trained
    started = time.perf_counter()
    with user_mistakes():
        victim = _victims.get(
            (*key, config.scaling), lambda: make(config, corpus, cache_dir, console)
        )
    return victim._replace(seconds=time.perf_counter() - started)


def corpus_key(corpus: Corpus) -> tuple[str, tuple[int, ...]]:
    """Returns what of a corpus a training depends on."""
    return corpus.dataset.fingerprint, tuple(len(split) for split in corpus.splits)


def model_folder(config: RunConfig, corpus: Corpus, cache_dir: Path) -> Path:
    """Returns where a model of the registry is cached."""
    identity = fingerprint(
        *(_VERSION, config.model, *corpus_key(corpus), config.scaling, config.seed),
        dataclasses.asdict(config.training),
    )
    name = f"{config.model}-{config.dataset}-{config.scaling}-{identity}"
    return cache_dir / "models" / name


def learned_bank(config: RunConfig, victim: Victim) -> dict[str, np.ndarray]:
    """Returns the fields of `ReportData` on a sinc layer, none if there is none."""
    variables = victim.classifier.variables
    if config.own_model is not None or "sinc" not in variables["params"]:
        return {}
    rate_hz = config.sample_rate_hz
    edges = np.asarray(sinc.band_edges_hz(variables, sample_rate_hz=rate_hz))
    initial = sinc.initial_band_edges_hz(len(edges), sample_rate_hz=rate_hz)
    return {"bank_edges_hz": edges, "initial_bank_edges_hz": np.asarray(initial)}


def clips_of_detector(
    config: RunConfig, corpus: Corpus, clips: Clips, victim: Victim, console: Console
) -> Clips:
    """Returns the clips of a run whose detector is to reach a state.

    Its attack clips are then those that are not in that state already; other runs keep
    theirs.

    Raises:
        UsageError: All clips of the attack, or of the test, are in that state.
    """
    target, dataset = clips.target, clips.dataset
    if detected(dataset.class_names) is None or target is None:
        return clips
    rng = np.random.default_rng([config.seed, 1])
    candidates = rng.permutation(attack_candidates(config, corpus))
    choose = functools.partial(
        clips_to_change,
        victim.classifier,
        dataset,
        target=target,
        scaling=config.scaling,
    )
    attack = choose(candidates, count=config.num_attack_clips)
    for split, chosen in (
        ("training", attack),
        ("test", choose(clips.test, count=1)),
    ):
        if not len(chosen):
            raise UsageError(
                f"--target: expected {split} clips that are not "
                f'"{config.target}" for {config.model} already, got none'
            )
    console.say(
        f'attack clips: {len(attack)} that are not "{config.target}" for '
        f"{config.model} already"
    )
    return clips._replace(attack=attack)


class Predictor(NamedTuple):
    """A trained classifier with names for its logits."""

    classifier: Classifier
    class_names: tuple[str, ...]
    scaling: str

    def predict(self, waveforms: np.ndarray) -> list[str]:
        """Returns classes of waveforms `[B, N]`, or `NOT_FINITE`; compiles for B."""
        indices = _classify(
            self.classifier.logits,
            self.classifier.variables,
            jnp.asarray(waveforms),
            self.scaling,
        )
        # -1 where the logits are not finite.
        names = (*self.class_names, NOT_FINITE)
        return [names[index] for index in np.asarray(indices)]


def load_predictor(run: StoredRun, *, cache_dir: Path) -> Predictor:
    """Returns the classifier that a run attacked; nothing is trained.

    The corpus is loaded too where it names the classes.

    Raises:
        UsageError: The model is not in the cache, or its corpus has changed.
    """
    name = run.result["victim"]["name"]
    if run.result["victim"].get("training") == "shipped":
        classifier = shipped.load(name.removesuffix(SHIPPED_SUFFIX))
        names = classifier.class_names or ()
        return Predictor(classifier, names, config_of(run).scaling)
    folder = cache_dir / "models" / name
    is_own = run.config.get("own_model") is not None
    if not is_own and not (folder / "model.json").is_file():
        raise UsageError(f"--predict: expected the model {name} in {folder.parent}")
    config = config_of(run)
    environment.cache_compilations(cache_dir / "compiled")
    # Shows progress only.
    quiet = Console(outer=Console())

    def corpus() -> Corpus:
        loaded = load_corpus(config, cache_dir=cache_dir, strict=False, console=quiet)
        attacked = files.read_json(run.workdir / PROBLEM) or {}
        if attacked.get("corpus") != loaded.dataset.fingerprint:
            raise UsageError(
                f"--predict: expected the corpus that {name} was trained on, got "
                f"another {loaded.dataset.name}"
            )
        return loaded

    own = custom_models.load(**config.model_arguments)
    if own is not None:
        classifier, _ = own
    elif model_folder(config, corpus(), cache_dir) == folder:
        victim = prepare(config, corpus(), cache_dir=cache_dir, console=quiet)
        classifier = victim.classifier
    else:
        raise UsageError(f"--predict: expected the settings of {name}, got others")
    if line := difference_from(run, config, classifier):
        raise UsageError(f"--predict: expected {name} as it was attacked: {line}")
    names = classifier.class_names or corpus().dataset.class_names
    return Predictor(classifier, names, config.scaling)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _classify(
    logits_fn: Any, variables: Any, waveform: jax.Array, scaling: str
) -> jax.Array:
    x, _ = to_box(waveform, scaling=scaling)
    return classify(logits_fn(variables, x))


def _trained(
    config: RunConfig, corpus: Corpus, cache_dir: Path, console: Console
) -> Victim:
    dataset, splits = corpus
    architecture = models.create(
        config.model,
        num_classes=len(dataset.class_names),
        num_samples=dataset.num_samples,
    )
    folder = model_folder(config, corpus, cache_dir)
    if not config.retrain and (facts := shipped.describe(folder.name)):
        console.say(
            f"using {config.model} that comes with uap_jax, trained on "
            f"{dataset.name} ({config.scaling}, seed {config.seed}); validation "
            f"accuracy {facts['validation_accuracy']:.3f}; --retrain trains another"
        )
        told = ("validation_accuracy", "best_epoch", "num_epochs")
        return Victim(
            shipped.load(folder.name),
            {
                "name": folder.name + SHIPPED_SUFFIX,
                "training": "shipped",
                **{key: facts[key] for key in told},
            },
            0.0,
        )
    with _locked(folder, console):
        facts = files.read_json(folder / "model.json")
        if facts is None:
            console.say(
                f"training {config.model} on {len(splits.train)} clips "
                f"({dataset.name}, {config.scaling}) in {folder}"
            )
        log = _EpochLog(folder / "epochs.jsonl", console)
        result = train(
            architecture,
            dataset,
            splits,
            scaling=config.scaling,
            recipe=config.training,
            seed=config.seed,
            workdir=folder / "checkpoints",
            on_epoch=log,
            on_step=lambda epoch, done, total: console.progress(
                f"training, epoch {epoch}", done, total
            ),
        )
        current = {
            "name": folder.name,
            "validation_accuracy": result.validation_accuracy,
            "best_epoch": result.best_epoch,
            "num_epochs": result.num_epochs,
        }
        # The file may be damaged.
        if facts is None or log.num_epochs or facts | current != facts:
            facts = current | {"seconds": log.total_seconds()}
            files.write_json(folder / "model.json", facts)
        else:
            console.say(f"using {config.model} trained in {folder}")
    console.say(
        f"{config.model}: validation accuracy {facts['validation_accuracy']:.3f} "
        f"after epoch {facts['best_epoch']} of {facts['num_epochs']}"
    )
    classifier = architecture.classifier(result.variables, dataset.class_names)
    return Victim(classifier, facts, 0.0)


def _given(
    config: RunConfig, corpus: Corpus, _cache_dir: Path, console: Console
) -> Victim:
    """Returns a custom classifier after checking its outputs."""
    dataset, splits = corpus
    loaded = custom_models.load(**config.model_arguments)
    if loaded is None or loaded[1] != config.own_model:
        raise UsageError(f"--model: {config.model} changed since the run started")
    classifier, facts = loaded
    num_classes = facts["num_classes"]
    some = to_waveform(dataset.clips[splits.validation[:NUM_CHECKED]])
    x, _ = to_box(jnp.asarray(some), scaling=config.scaling)
    check_outputs(
        np.asarray(classifier.logits(classifier.variables, x)),
        name=config.model,
        shape=(len(some), num_classes),
    )
    accuracy = evaluate_accuracy(
        classifier.logits,
        classifier.variables,
        dataset,
        splits.validation,
        scaling=config.scaling,
    )
    console.say(
        f"{config.model} is trained already: {num_classes} classes, clips of "
        f"{classifier.num_samples} samples at {classifier.sample_rate_hz} Hz; "
        f"validation accuracy {accuracy:.3f}"
    )
    if "note" in facts:
        console.say(f"{config.model}: {facts['note']}")
    is_detector = detected(dataset.class_names) is not None
    # Most clips may be in one state.
    if accuracy * num_classes < 1.5 and not is_detector:
        console.say(
            "that is little better than chance: are the classes in the order "
            f"{', '.join(dataset.class_names)}, and is the input what it takes?"
        )
    facts = {
        "name": facts["name"],
        "training": "given",
        "fingerprint": facts["fingerprint"],
        "validation_accuracy": accuracy,
    }
    return Victim(classifier, facts, 0.0)


@contextlib.contextmanager
def _locked(folder: Path, console: Console) -> Generator[None, None, None]:
    """Locks the folder of a model; of several processes one trains it.

    One that another user has trained, and only that user may write, needs no lock.
    """
    if (folder / "model.json").is_file() and not os.access(folder, os.W_OK):
        yield
        return
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(files.locked(folder, wait=False))
        except files.InUseError:
            console.say(f"waiting: another process is using model {folder}")
            stack.enter_context(files.locked(folder, wait=True))
        yield


class _EpochLog:
    """Writes and shows a line for each epoch."""

    def __init__(self, path: Path, console: Console) -> None:
        self.num_epochs = 0
        self._path = path
        self._console = console

    def __call__(self, entry: Any) -> None:
        self.num_epochs += 1
        files.append_line(self._path, entry)
        left = (entry["num_epochs"] - entry["epoch"]) * entry["seconds"]
        self._console.say(
            f"epoch {entry['epoch']}/{entry['num_epochs']}: loss {entry['loss']:.3f}, "
            f"validation accuracy {entry['validation_accuracy']:.3f}, "
            f"{format_seconds(entry['seconds'])}, {format_seconds(left)} left"
        )

    def total_seconds(self) -> float:
        """Returns the time of all epochs; one that was trained twice counts once."""
        lines = files.read_lines(self._path)
        seconds = {str(entry.get("epoch")): entry.get("seconds") for entry in lines}
        return sum(
            value for value in seconds.values() if isinstance(value, float | int)
        )
