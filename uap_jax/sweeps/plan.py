"""From a manifest to trials with ids, kept in an index so that it need not be redone.

The index, `sweep.json`, holds what takes seconds to find out: the settings of each
trial, for which JAX must be loaded, and the classes of each corpus.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from uap_jax import files
from uap_jax.data.corpora import BUILT_IN, DEFAULT_CORPORA
from uap_jax.errors import UsageError
from uap_jax.files import fingerprint, flatten
from uap_jax.models.registry import default_num_samples
from uap_jax.sweeps import manifest

if TYPE_CHECKING:
    from uap_jax.data.dataset import Dataset
    from uap_jax.runs.config import RunConfig

INDEX = "sweep.json"

# What does not change a result: where the recordings are, how the settings were
# arrived at, and what follows the machine.
_IMMATERIAL = ("data_dir", "preset", "variant")
_MACHINE_SUFFIX = "micro_batch_size"


@dataclasses.dataclass(frozen=True)
class Trial:
    """One attack of an experiment.

    Attributes:
        id: A hash of what its result depends on; names its work directory.
        request: Fields of a `pipeline.Request`.
        config: Its settings, resolved, as in config.json.
        label: What it is, for people.
    """

    id: str
    request: Mapping[str, Any]
    config: Mapping[str, Any]
    label: str

    def folder(self, workdir: Path) -> Path:
        """Returns its work directory."""
        return workdir / "trials" / self.id

    def command(self, workdir: Path, cache_dir: Path) -> str:
        """Returns the command that runs it alone."""
        settings = {**self.request, "workdir": str(self.folder(workdir))}
        settings["cache_dir"] = str(cache_dir)
        given = [
            f"--{key}={value}"
            for key, value in settings.items()
            if key != "overrides" and value is not None
        ]
        given += [f"--set={override}" for override in self.request["overrides"]]
        return "python -m uap_jax.experiments.run " + shlex.join(given)


class CorpusFlags(NamedTuple):
    """A corpus as it was asked for; flags of `run`."""

    dataset: str | None = None
    data_dir: str | None = None
    split: str | None = None
    group_pattern: str | None = None


def trial_id(config: Mapping[str, Any]) -> str:
    """Returns a hash of the settings that change a result.

    What is None is left out, so that a new setting that is off changes no id.
    """
    flat = flatten(config)
    return fingerprint(
        {
            key: value
            for key, value in flat.items()
            if value is not None
            and key not in _IMMATERIAL
            and not key.endswith(_MACHINE_SUFFIX)
        }
    )


def pair_corpora(
    datasets: Sequence[str],
    data_dirs: Sequence[str],
    *,
    split: str | None = None,
    group_pattern: str | None = None,
) -> tuple[CorpusFlags, ...]:
    """Pairs each corpus that is a folder with the next folder.

    Of several corpora, `split` and `group_pattern` go to those that they are made for.

    Raises:
        UsageError: There are folders without a corpus, or the other way round, or
            `split` or `group_pattern` is for none of several corpora.
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
    """Returns the corpus that a model is used with.

    One corpus is for all models; of several each model takes the first of its kind,
    words or scenes, and the built-in one if there is none.
    """
    if len(corpora) == 1:
        return corpora[0]
    fitting = [
        corpus
        for corpus in corpora
        if corpus.dataset and _is_speech(corpus.dataset) == _is_speech_model(model)
    ]
    return fitting[0] if fitting else CorpusFlags()


def make_plan(
    declared: manifest.Manifest,
    corpora: Sequence[CorpusFlags],
    *,
    workdir: Path,
    load: Callable[["RunConfig"], "Dataset"],
) -> list[Trial]:
    """Returns the trials of an experiment, each once, from the index if they are there.

    Args:
        declared: The experiment.
        corpora: From `pair_corpora`.
        workdir: Of the sweep.
        load: Loads the corpus of some settings, where the index does not know it.

    Raises:
        UsageError: A trial cannot be as it is declared.
    """
    digest = fingerprint(declared.digest, declared.scale, corpora, _digest_of_code())
    key = f"{declared.name} {declared.scale}"
    with contextlib.suppress(KeyError, TypeError):
        stored = read_index(workdir)["plans"][key]
        if stored["digest"] == digest:
            return [Trial(**entry) for entry in stored["trials"]]
    trials = _resolve(declared, corpora, workdir, load)
    described = [dataclasses.asdict(trial) for trial in trials]
    _update_index(workdir, "plans", key, {"digest": digest, "trials": described})
    return trials


def settings_of(request: Mapping[str, Any], *, on_accelerator: bool) -> "RunConfig":
    """Returns the settings that a trial's request resolves to."""
    from uap_jax.runs import config, pipeline

    fields: dict[str, Any] = {**request, "overrides": tuple(request["overrides"])}
    asked = dataclasses.asdict(pipeline.Request(**fields))
    return config.resolve(**asked, on_accelerator=on_accelerator)


def note_corpus(workdir: Path, settings: "RunConfig", dataset: "Dataset") -> None:
    """Writes down what corpus a sweep is about.

    Raises:
        UsageError: The sweep is about another one of that name.
    """
    found = {
        "fingerprint": dataset.fingerprint,
        "class_names": list(dataset.class_names),
        "data_dir": settings.data_dir,
    }
    key = corpus_key(settings)
    known = read_index(workdir)["corpora"].get(key)
    if known == found:
        return
    if known is not None and known.get("fingerprint") != dataset.fingerprint:
        raise UsageError(
            f"{workdir}: holds trials on other recordings, groups or splits of "
            f"{dataset.name}; name another --workdir"
        )
    _update_index(workdir, "corpora", key, found)


def read_index(workdir: Path) -> dict[str, dict[str, Any]]:
    """Returns the index; an empty one where there is none, or a damaged one."""
    index: Any = None
    with contextlib.suppress(OSError, ValueError):
        index = json.loads((workdir / INDEX).read_text())
    sections = {}
    for name in ("plans", "corpora"):
        section = index.get(name) if isinstance(index, dict) else None
        entries = section.items() if isinstance(section, dict) else ()
        sections[name] = {
            key: value for key, value in entries if isinstance(value, dict)
        }
    return sections


def _update_index(workdir: Path, section: str, key: str, value: Any) -> None:
    with files.locked(workdir, wait=True):
        index = read_index(workdir)
        index[section][key] = value
        files.write_json(workdir / INDEX, index)


def _resolve(
    declared: manifest.Manifest,
    corpora: Sequence[CorpusFlags],
    workdir: Path,
    load: Callable[["RunConfig"], "Dataset"],
) -> list[Trial]:
    def corpus_flags(model: str) -> dict[str, str | None]:
        return corpus_of(model, corpora)._asdict()

    @functools.cache
    def class_names(model: str) -> list[str]:
        # What is wrong with the corpus is no matter of the manifest.
        request = {"method": "penalty", "model": model, "overrides": []}
        settings = settings_of({**request, **corpus_flags(model)}, on_accelerator=False)
        known = read_index(workdir)["corpora"].get(corpus_key(settings))
        if known is not None and known.get("data_dir") == settings.data_dir:
            return known["class_names"]
        return list(load(settings).class_names)

    from uap_jax.runs import config

    found: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
    for where, request in manifest.requests(
        declared, corpus_flags=corpus_flags, class_names=class_names
    ):
        try:
            settings = settings_of(request, on_accelerator=False)
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from error
        described = config.as_json(settings)
        found.setdefault(trial_id(described), (request, described))
    common = set.intersection(*(set(asked["overrides"]) for asked, _ in found.values()))
    trials = [
        Trial(identity, request, described, _label(request, described, common))
        for identity, (request, described) in found.items()
    ]
    known = set().union(*(facts_of(trial) for trial in trials))
    manifest.check_table_keys(declared, sorted(known))
    return trials


def _label(
    request: Mapping[str, Any], described: Mapping[str, Any], common: set[str]
) -> str:
    """Returns what a trial is; settings that all have in common go without saying."""
    goal, start = described["target"], described.get("attack_class")
    parts = [described["method"], described["model"]]
    parts.append(f'"{goal}"' if goal else "untargeted")
    if start:
        parts.append(f'from "{start}"')
    parts += [f"{described['num_attack_clips']} clips", f"seed {described['seed']}"]
    parts += [setting for setting in request["overrides"] if setting not in common]
    return " ".join(parts)


def facts_of(trial: Trial) -> dict[str, Any]:
    """Returns the settings of a trial, flat, as tables group by them."""
    goal = trial.config["target"]
    settings = flatten(trial.config)
    # Rows are keyed by these, and the index gives lists where settings have tuples.
    hashable = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in settings.items()
    }
    return hashable | {
        "goal": "targeted" if goal else "untargeted",
        "target": goal or "untargeted",
    }


def corpus_key(settings: "RunConfig") -> str:
    """Returns what tells corpora apart but for the folder; a model wants its length."""
    num_samples = default_num_samples(settings.model)
    return f"{settings.dataset}-{settings.split}-{num_samples}"


def _digest_of_code() -> str:
    """Returns a hash of the package, since what settings resolve to follows from it."""
    folder = Path(__file__).parents[1]
    sources = sorted(folder.rglob("*.py"))
    return fingerprint(
        [hashlib.sha256(source.read_bytes()).hexdigest() for source in sources]
    )


def _is_speech(dataset: str) -> bool:
    return "speech" in dataset or dataset == "tfsr"


def _is_speech_model(model: str) -> bool:
    return _is_speech(DEFAULT_CORPORA[model][0])
