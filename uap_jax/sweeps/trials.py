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
from typing import Any, TypeVar

from uap_jax import files
from uap_jax.console import Console
from uap_jax.errors import UsageError
from uap_jax.files import fingerprint, flatten
from uap_jax.models.registry import default_num_samples
from uap_jax.runs import store
from uap_jax.runs.config import RunConfig, command, trial_id
from uap_jax.runs.resolve import resolve
from uap_jax.sweeps import corpora, manifest
from uap_jax.sweeps.corpora import Context, CorpusFlags
from uap_jax.training.recipes import recipe_for

_RESULT_KEYS = (
    *("dataset", "clean_accuracy", "converged", "stop_reason", "num_passes", "train"),
    *("test", "control", "versions", "hardware"),
)
# What trials share whose models can evaluate the same clips.
_SAME_CLIPS = ("dataset", "data_dir", "split", "scaling", "seed", "num_test_clips")
_TRANSFER_KEYS = ("test", "control", "clean_accuracy")
# What tables call the channel of a sound that was made without one.
WITH_THE_CLIP = "starts with the clip"


@dataclasses.dataclass(frozen=True)
class Trial:
    """One attack of an experiment."""

    id: str  # a hash of what its result depends on; names its work directory
    settings: Mapping[str, Any]  # resolved, as in config.json
    label: str  # for people
    config: RunConfig | None = None  # as given; None if read back from its folder

    @property
    def facts(self) -> dict[str, Any]:
        """The settings, flat, as tables group by them."""
        target = self.settings["target"] or "untargeted"
        goal = "targeted" if self.settings["target"] else "untargeted"
        flat = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in flatten(self.settings).items()
        }
        channel = self.settings.get("channel") or WITH_THE_CLIP
        return flat | {"goal": goal, "target": target, "channel": channel}

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
AnyJob = TypeVar("AnyJob", bound=Job)


def plan(
    declared: manifest.Manifest,
    given: Sequence[CorpusFlags],
    context: Context,
    console: Console,
) -> list[Trial]:
    """Returns the trials of an experiment, each once, and writes their config.json.

    Loads corpora, from `corpora.pair`, whose classes are needed and not known yet.

    Raises:
        UsageError: A trial cannot be as it is declared.
    """

    def corpus_flags(model: str) -> dict[str, Any]:
        return corpora.corpus_of(model, given)._asdict()

    @functools.cache
    def class_names(model: str) -> Sequence[str]:
        unresolved = RunConfig(model=model, **corpus_flags(model))
        config = resolve(unresolved, on_accelerator=False)
        known = corpora.read(context.workdir).get(corpora.key_of(config), {})
        if known.get("data_dir", "") == config.data_dir:
            return known["class_names"]
        return corpora.load(config, context, console).dataset.class_names

    settings_of: dict[str, tuple[RunConfig, dict[str, Any]]] = {}
    for config, settings in manifest.configs(
        declared, corpus_flags=corpus_flags, class_names=class_names
    ):
        settings_of.setdefault(trial_id(settings), (config, settings))
    common = set.intersection(*(set(c.overrides) for c, _ in settings_of.values()))
    trials = [
        Trial(identity, settings, _label(config, settings, common), config)
        for identity, (config, settings) in settings_of.items()
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
    path = Trial(identity, {}, label).folder(workdir) / "config.json"
    settings = files.read_json(path)
    if settings is None or not {"method", "model", "target"} <= settings.keys():
        raise UsageError(
            f"{path}: expected the settings of a trial; run the sweep's command again"
        )
    settings.pop("command", None)
    return Trial(identity, settings, label)


def load_corpora(trials: Sequence[Trial], context: Context, console: Console) -> None:
    """Loads the corpora of trials that are not done, so that a fault is met once.

    Raises:
        UsageError: One cannot be used, or the sweep is about other recordings.
    """
    configs: dict[Any, RunConfig] = {}
    for trial in pending(trials, context.workdir):
        key = tuple(trial.settings[name] for name in ("dataset", "data_dir", "model"))
        if trial.config:
            configs.setdefault(key, trial.config)
    for config in configs.values():
        corpora.load(resolve(config, on_accelerator=False), context, console)


def transfers(trials: Sequence[Trial]) -> list[Transfer]:
    """Returns each trial on each other model of the manifest that takes its clips.

    The models are those of trials with the same corpus, seed and overrides of the
    training, whatever their attack. Perturbations for one model follow each other.
    """
    overridden = set().union(*map(_training_overrides, trials))
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

    def weights(pair: Transfer) -> tuple[int, int]:
        settings = pair.victim.settings
        return order.index(settings["model"]), settings["seed"]

    return sorted(pairs, key=weights)


def read_result(job: Job, workdir: Path) -> dict[str, Any] | None:
    """Returns the result of a job, or None if it is missing or incomplete."""
    wanted = _RESULT_KEYS if isinstance(job, Trial) else _TRANSFER_KEYS
    with contextlib.suppress(UsageError):
        result = files.read_json(job.folder(workdir) / "result.json")
        if result is not None and all(key in result for key in wanted):
            return result
    return None


def good_result(trial: Trial, workdir: Path) -> dict[str, Any] | None:
    """Returns the result of a trial unless it is missing or its attack failed."""
    result = read_result(trial, workdir)
    return None if result and store.fault_of(result) else result


def pending(jobs: Iterable[AnyJob], workdir: Path) -> list[AnyJob]:
    """Returns the jobs that are not finished."""
    return [job for job in jobs if read_result(job, workdir) is None]


def _label(config: RunConfig, settings: Mapping[str, Any], common: set[str]) -> str:
    """Returns what a trial is, without the overrides that all have in common."""
    goal, start = config.target, config.attack_class
    parts = [config.method, config.model, f'"{goal}"' if goal else "untargeted"]
    parts += [f'from "{start}"'] if start else []
    parts += [f"through {config.channel}"] if config.channel else []
    parts += [f"{config.sound_seconds:g} s of sound"] if config.sound_seconds else []
    parts += [f"rooms {config.rooms}"] if config.rooms else []
    parts += [f"{settings['num_attack_clips']} clips", f"seed {config.seed}"]
    parts += [setting for setting in config.overrides if setting not in common]
    return " ".join(parts)


def _training_overrides(trial: Trial) -> set[str]:
    """Returns the settings of the training that are not the model's usual ones."""
    recipe = recipe_for(trial.settings["model"], trial.settings["dataset"])
    usual, training = dataclasses.asdict(recipe), flatten(trial.settings["training"])
    return {key for key, value in flatten(usual).items() if training.get(key) != value}
