"""The work of a sweep: trials, and evaluations of their sounds on other models.

Each is finished when its result.json is complete, so a new start, a crash and a changed
manifest are one case. A trial's folder holds its settings from the start.
"""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from uap_jax import files
from uap_jax.console import Console
from uap_jax.data.corpora import BUILT_IN, DEFAULT_CORPORA
from uap_jax.errors import UsageError
from uap_jax.files import fingerprint, flatten
from uap_jax.models.registry import default_num_samples
from uap_jax.runs.config import RunConfig, command, trial_id
from uap_jax.runs.corpus import Corpus, load_corpus
from uap_jax.runs.resolve import resolve
from uap_jax.sweeps import manifest
from uap_jax.training.recipes import recipe_for

# Of each corpus of a sweep: its fingerprint, classes and folder.
_CORPORA = "corpora.json"
_RESULT_KEYS = (
    *("dataset", "clean_accuracy", "converged", "stop_reason", "num_passes", "train"),
    *("test", "control", "versions", "hardware"),
)
# What trials share whose models can evaluate the same clips.
_SAME_CLIPS = ("dataset", "data_dir", "split", "scaling", "seed", "num_test_clips")
_TRANSFER_KEYS = ("test", "control", "clean_accuracy")


@dataclasses.dataclass(frozen=True)
class Context:
    """Where a sweep works; `strict`: whether one bad recording is an error."""

    workdir: Path
    cache_dir: Path
    strict: bool = False


@dataclasses.dataclass(frozen=True)
class Trial:
    """One attack of an experiment.

    Attributes:
        id: A hash of what its result depends on; names its work directory.
        settings: Resolved, as in config.json.
        label: What it is, for people.
        config: As given; None if read back from its folder.
    """

    id: str
    settings: Mapping[str, Any]
    label: str
    config: RunConfig | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """The settings, flat, as tables group by them."""
        goal = self.settings["target"]
        flat = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in flatten(self.settings).items()
        }
        kind = "targeted" if goal else "untargeted"
        return flat | {"goal": kind, "target": goal or "untargeted"}

    def folder(self, workdir: Path) -> Path:
        """Returns its work directory."""
        return workdir / "trials" / self.id


@dataclasses.dataclass(frozen=True)
class Transfer:
    """An evaluation of one trial's perturbation on the model of another trial."""

    source: Trial
    victim: Trial

    @property
    def id(self) -> str:
        """A hash of what its result depends on."""
        keys = ("model", "dataset", "split", "scaling", "seed", "training")
        return fingerprint(self.source.id, [self.victim.settings[key] for key in keys])

    @property
    def label(self) -> str:
        """What it is, for people."""
        return f"{self.source.label} on {self.victim.settings['model']}"

    def folder(self, workdir: Path) -> Path:
        """Returns the folder of its result."""
        return workdir / "transfer" / self.id


Job = Trial | Transfer


class CorpusFlags(NamedTuple):
    """A corpus as given; fields of `RunConfig`."""

    dataset: str | None = None
    data_dir: str | None = None
    split: str | None = None
    group_pattern: str | None = None


def pair_corpora(
    datasets: Sequence[str],
    data_dirs: Sequence[str],
    *,
    split: str | None = None,
    group_pattern: str | None = None,
) -> tuple[CorpusFlags, ...]:
    """Pairs each corpus that is not built in with the next folder.

    Of several corpora, `split` and `group_pattern` go to those that they are made for.

    Raises:
        UsageError: Corpora and folders do not match, or none of several corpora takes
            `split` or `group_pattern`.
    """
    num_folders = sum(name not in BUILT_IN for name in datasets)
    if not datasets:
        num_folders = min(len(data_dirs), 1)
    if len(data_dirs) != num_folders:
        raise UsageError(
            f"--data_dir: expected {num_folders}, one for each --dataset that is not "
            f"built in, got {len(data_dirs)}"
        )
    if len(datasets) < 2:
        name = datasets[0] if datasets else None
        folder = data_dirs[0] if data_dirs else None
        return (CorpusFlags(name, folder, split, group_pattern),)
    for flag, value, made_for in (
        ("split", split, "urbansound8k"),
        ("group_pattern", group_pattern, "folder"),
    ):
        if value not in (None, "official") and made_for not in datasets:
            raise UsageError(
                f"--{flag}: of several corpora only {made_for} takes it, which is not "
                f"among {', '.join(datasets)}"
            )
    folders = iter(data_dirs)
    return tuple(
        CorpusFlags(
            name,
            None if name in BUILT_IN else next(folders),
            split if name == "urbansound8k" else None,
            group_pattern if name == "folder" else None,
        )
        for name in datasets
    )


def corpus_of(model: str, corpora: Sequence[CorpusFlags]) -> CorpusFlags:
    """Returns the corpus for a model.

    One corpus is for all models; of several each model takes the first of words or of
    scenes, as fits it, and the built-in one if there is none.
    """
    if len(corpora) == 1:
        return corpora[0]
    is_speech = _is_speech(DEFAULT_CORPORA[default_num_samples(model)][0])
    fitting = [c for c in corpora if c.dataset and _is_speech(c.dataset) == is_speech]
    return fitting[0] if fitting else CorpusFlags()


def plan(
    declared: manifest.Manifest,
    corpora: Sequence[CorpusFlags],
    context: Context,
    console: Console,
) -> list[Trial]:
    """Returns the trials of an experiment, each once, and writes their config.json.

    Args:
        declared: The experiment.
        corpora: From `pair_corpora`.
        context: Of the sweep.
        console: Told of the loading of corpora whose classes are not known yet.

    Raises:
        UsageError: A trial cannot be as it is declared.
    """

    @functools.cache
    def class_names(model: str) -> Sequence[str]:
        given = RunConfig(model=model, **corpus_of(model, corpora)._asdict())
        config = resolve(given, on_accelerator=False)
        known = read_corpora(context.workdir).get(_corpus_key(config), {})
        if known.get("data_dir", "") == config.data_dir:
            return known["class_names"]
        return load(config, context, console).dataset.class_names

    given: dict[str, tuple[RunConfig, dict[str, Any]]] = {}
    for config, settings in manifest.configs(
        declared,
        corpus_flags=lambda model: corpus_of(model, corpora)._asdict(),
        class_names=class_names,
    ):
        given.setdefault(trial_id(settings), (config, settings))
    common = set.intersection(*(set(config.overrides) for config, _ in given.values()))
    trials = [
        Trial(identity, settings, _label(config, settings, common), config)
        for identity, (config, settings) in given.items()
    ]
    known = set().union(*(trial.facts for trial in trials))
    manifest.check_table_keys(declared, sorted(known))
    for trial in trials:
        path = trial.folder(context.workdir) / "config.json"
        if trial.config is not None and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            alone = command(
                trial.config, workdir=path.parent, cache_dir=context.cache_dir
            )
            files.write_json(path, {**trial.settings, "command": alone})
    return trials


def read_trial(identity: str, label: str, workdir: Path) -> Trial:
    """Reads a trial back from its folder.

    Raises:
        UsageError: The folder has no config.json, or a damaged one.
    """
    trial = Trial(identity, {}, label)
    path = trial.folder(workdir) / "config.json"
    settings = files.read_json(path)
    if settings is None or not {"method", "model", "target"} <= settings.keys():
        raise UsageError(
            f"{path}: expected the settings of a trial; run the sweep's command again"
        )
    settings.pop("command", None)
    return dataclasses.replace(trial, settings=settings)


def load(config: RunConfig, context: Context, console: Console) -> Corpus:
    """Loads the corpus of a resolved config, and notes it as one of the sweep.

    Raises:
        UsageError: It cannot be used, or the sweep is about other recordings.
    """
    corpus = load_corpus(
        config, cache_dir=context.cache_dir, strict=context.strict, console=console
    )
    dataset, workdir = corpus.dataset, context.workdir
    facts = {
        "fingerprint": dataset.fingerprint,
        "class_names": list(dataset.class_names),
        "data_dir": config.data_dir,
    }
    with files.locked(workdir, wait=True):
        noted = read_corpora(workdir)
        known = noted.get(_corpus_key(config), facts)
        if known["fingerprint"] != dataset.fingerprint:
            raise UsageError(
                f"{workdir}: holds trials on other recordings, groups or splits of "
                f"{dataset.name}; name another --workdir"
            )
        if noted.get(_corpus_key(config)) != facts:
            files.write_json(workdir / _CORPORA, noted | {_corpus_key(config): facts})
    return corpus


def read_corpora(workdir: Path) -> dict[str, dict[str, Any]]:
    """Returns the corpora of a sweep, by "dataset-split-samples of a clip"."""
    return files.read_json(workdir / _CORPORA) or {}


def transfers(trials: Sequence[Trial]) -> list[Transfer]:
    """Returns each trial on each other model of the manifest that takes its clips.

    The models are those of trials with the same corpus, seed and overrides of the
    training, whatever their attack. Perturbations for one model follow each other.
    """
    overridden = {key for trial in trials for key in _training_overrides(trial)}
    alike: dict[str, list[Trial]] = {}
    for trial in trials:
        training = flatten(trial.settings["training"])
        same = fingerprint(
            [trial.settings.get(key) for key in _SAME_CLIPS],
            default_num_samples(trial.settings["model"]),
            [training[key] for key in sorted(overridden)],
        )
        alike.setdefault(same, []).append(trial)
    pairs = []
    for group in alike.values():
        # Each model once, named by its first trial.
        victims = {trial.settings["model"]: trial for trial in reversed(group)}
        pairs += [
            Transfer(source, victim)
            for source, victim in itertools.product(group, victims.values())
            if source.settings["model"] != victim.settings["model"]
        ]
    order = list(dict.fromkeys(trial.settings["model"] for trial in trials))
    return sorted(
        pairs,
        key=lambda pair: (
            order.index(pair.victim.settings["model"]),
            pair.victim.settings["seed"],
        ),
    )


def read_result(job: Job, workdir: Path) -> dict[str, Any] | None:
    """Returns the result of a job, or None if it is missing or incomplete."""
    wanted = _RESULT_KEYS if isinstance(job, Trial) else _TRANSFER_KEYS
    with contextlib.suppress(UsageError):
        result = files.read_json(job.folder(workdir) / "result.json")
        if result is not None and all(key in result for key in wanted):
            return result
    return None


def pending(jobs: Iterable[Job], workdir: Path) -> list[Job]:
    """Returns the jobs that are not finished."""
    return [job for job in jobs if read_result(job, workdir) is None]


def _label(config: RunConfig, settings: Mapping[str, Any], common: set[str]) -> str:
    """Returns what a trial is, without the overrides that all have in common."""
    goal, start = config.target, config.attack_class
    parts = [config.method, config.model, f'"{goal}"' if goal else "untargeted"]
    parts += [f'from "{start}"'] if start else []
    parts += [f"{settings['num_attack_clips']} clips", f"seed {config.seed}"]
    parts += [setting for setting in config.overrides if setting not in common]
    return " ".join(parts)


def _training_overrides(trial: Trial) -> list[str]:
    """Returns the settings of the training that are not the model's usual ones."""
    usual = recipe_for(trial.settings["model"], trial.settings["dataset"])
    return [
        key
        for key, value in flatten(dataclasses.asdict(usual)).items()
        if flatten(trial.settings["training"]).get(key) != value
    ]


def _corpus_key(config: RunConfig) -> str:
    return f"{config.dataset}-{config.split}-{config.num_samples}"


def _is_speech(dataset: str) -> bool:
    return "speech" in dataset or dataset == "tfsr"
