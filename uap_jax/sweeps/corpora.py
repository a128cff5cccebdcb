"""The corpora of a sweep: as given, which model uses which, known facts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from uap_jax import files
from uap_jax.console import Console
from uap_jax.data.corpora import BUILT_IN, DEFAULT_CORPORA
from uap_jax.errors import UsageError
from uap_jax.models.registry import default_num_samples
from uap_jax.runs.config import RunConfig
from uap_jax.runs.corpus import Corpus, load_corpus

# Of each corpus: its fingerprint, classes and folder.
_CORPORA = "corpora.json"


class Context(NamedTuple):
    """Where a sweep works; `strict`: whether one bad recording is an error."""

    workdir: Path
    cache_dir: Path
    strict: bool = False


class CorpusFlags(NamedTuple):
    """A corpus as given; fields of `RunConfig`."""

    dataset: str | None = None
    data_dir: str | None = None
    split: str | None = None
    group_pattern: str | None = None


def pair(
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
        name, folder = (next(iter(given), None) for given in (datasets, data_dirs))
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


def corpus_of(model: str, given: Sequence[CorpusFlags]) -> CorpusFlags:
    """Returns the corpus for a model.

    One corpus is for all models; of several each model takes the first of words or of
    scenes, as fits it, and the built-in one if there is none.
    """
    if len(given) == 1:
        return given[0]
    is_speech = _is_speech(DEFAULT_CORPORA[default_num_samples(model)][0])
    fitting = (c for c in given if c.dataset and _is_speech(c.dataset) == is_speech)
    return next(fitting, CorpusFlags())


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
        noted, key = read(workdir), key_of(config)
        if noted.get(key, facts)["fingerprint"] != dataset.fingerprint:
            raise UsageError(
                f"{workdir}: holds trials on other recordings, groups or splits of "
                f"{dataset.name}; name another --workdir"
            )
        if noted.get(key) != facts:
            files.write_json(workdir / _CORPORA, noted | {key: facts})
    return corpus


def read(workdir: Path) -> dict[str, dict[str, Any]]:
    """Returns the corpora of a sweep, by "dataset-split-samples of a clip"."""
    return files.read_json(workdir / _CORPORA) or {}


def key_of(config: RunConfig) -> str:
    """Returns what tells corpora apart but for the folder; of a resolved config."""
    return f"{config.dataset}-{config.split}-{config.num_samples}"


def _is_speech(dataset: str) -> bool:
    return "speech" in dataset or dataset == "tfsr"
