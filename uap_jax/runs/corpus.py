"""The recordings of a run, their splits, and which clips it uses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from uap_jax.audio.box import to_box
from uap_jax.console import Console
from uap_jax.data import corpora
from uap_jax.data.dataset import Dataset, Splits, leaked_share, split_clips, to_waveform
from uap_jax.data.decoding import CheckFn
from uap_jax.data.folder import describe_folder
from uap_jax.data.tfsr import describe_tfsr
from uap_jax.errors import UsageError, user_mistakes
from uap_jax.evaluation import waveform_gain
from uap_jax.runs.classes import class_index, match, match_classes
from uap_jax.runs.config import RunConfig

T = TypeVar("T")


class Latest(Generic[T]):
    """Keeps the latest results of an expensive function, by key."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._results: dict[Any, T] = {}

    def get(self, key: Any, make: Callable[[], T]) -> T:
        """Returns the result for a key; makes it, after dropping the oldest."""
        if key not in self._results:
            while len(self._results) >= self._size:
                del self._results[next(iter(self._results))]
            self._results[key] = make()
        return self._results[key]


class Corpus(NamedTuple):
    """Clips and their splits."""

    dataset: Dataset
    splits: Splits


class Clips(NamedTuple):
    """What of a corpus a run uses."""

    dataset: Dataset
    target: int | None  # class
    attack: np.ndarray  # indices of training clips, ascending
    test: np.ndarray  # indices of test clips, ascending


_corpora: Latest[Corpus] = Latest(2)
_gains: Latest[float] = Latest(8)


def load_corpus(
    config: RunConfig,
    *,
    cache_dir: Path,
    strict: bool,
    console: Console,
    target_flag: str = "--target",
) -> Corpus:
    """Returns the corpus of a run, prepared if it is not in the cache.

    Args:
        config: Resolved.
        cache_dir: Where prepared clips are cached.
        strict: Whether one bad recording is an error.
        console: Told of the progress.
        target_flag: What named the target.

    Raises:
        UsageError: The recordings cannot be used, or have no class that the config
            names; the latter is known before anything is rendered or decoded.
    """

    def check(class_names: tuple[str, ...]) -> None:
        class_index(class_names, config.target, flag=target_flag)
        class_index(class_names, config.attack_class, flag="--attack_class")

    key = (
        *(config.dataset, config.data_dir, config.split, config.group_pattern),
        *(config.sample_rate_hz, config.num_samples, str(config.own_model)),
        *(config.present, cache_dir, strict),
    )
    corpus = _corpora.get(key, lambda: _load(config, cache_dir, strict, console, check))
    check(corpus.dataset.class_names)
    return corpus


def choose_clips(config: RunConfig, corpus: Corpus) -> Clips:
    """Returns the clips that a run uses.

    Raises:
        UsageError: The corpus has no such target or class of the attack's clips.
    """
    dataset = corpus.dataset
    target = class_index(dataset.class_names, config.target)
    candidates = attack_candidates(config, corpus)
    rng = np.random.default_rng([config.seed, 1])
    num_clips = min(config.num_attack_clips, len(candidates))
    attack = np.sort(rng.choice(candidates, num_clips, replace=False))
    return Clips(dataset, target, attack, choose_test_clips(config, corpus))


def attack_candidates(config: RunConfig, corpus: Corpus) -> np.ndarray:
    """Returns the indices of the training clips that the attack may use.

    Raises:
        UsageError: The corpus has no such class of the attack's clips.
    """
    dataset, candidates = corpus.dataset, corpus.splits.train
    start = class_index(dataset.class_names, config.attack_class, flag="--attack_class")
    if start is not None:
        candidates = candidates[dataset.labels[candidates] == start]
        if not len(candidates):
            raise UsageError(
                f"--attack_class: expected a class with training clips, "
                f"got {config.attack_class!r}"
            )
    return candidates


def attack_clips(config: RunConfig, clips: Clips) -> tuple[jax.Array, jax.Array]:
    """Returns the attack's clips `[M, N]` in the box, and labels `[M]` int32."""
    waveform = jnp.asarray(to_waveform(clips.dataset.clips[clips.attack]))
    x, _ = to_box(waveform, scaling=config.scaling)
    return x, jnp.asarray(clips.dataset.labels[clips.attack], jnp.int32)


def choose_test_clips(config: RunConfig, corpus: Corpus) -> np.ndarray:
    """Returns the indices, ascending, of at most `num_test_clips` test clips.

    Each class has its share of them, up to rounding.
    """
    dataset, test = corpus.dataset, corpus.splits.test
    wanted = config.num_test_clips
    if wanted is None or wanted >= len(test):
        return test
    rng = np.random.default_rng([config.seed, 2])
    shuffled = rng.permutation(test)
    labels = dataset.labels[shuffled]
    # The clips of a class spread evenly over [0, 1]: every part of it has their share.
    position = np.empty(len(labels))
    for label in np.unique(labels):
        members = labels == label
        count = np.sum(members)
        position[members] = (np.arange(count) + rng.random()) / count
    return np.sort(shuffled[np.argsort(position)[:wanted]])


def sound_gain(config: RunConfig, corpus: Corpus) -> float:
    """Returns the gain of perturbation.wav, for which all training clips are read."""
    dataset, splits = corpus
    return _gains.get(
        (dataset.fingerprint, config.scaling),
        lambda: waveform_gain(dataset, splits.train, scaling=config.scaling),
    )


def _load(
    config: RunConfig,
    cache_dir: Path,
    strict: bool,
    console: Console,
    check: CheckFn,
) -> Corpus:
    def check_listed(class_names: tuple[str, ...]) -> None:
        check(match(config, class_names)[0])

    if config.data_dir is None:
        console.say(
            f"no --data_dir: using the built-in corpus {config.dataset}, "
            "not real recordings"
        )
    # A worker that renders or decodes can fail as a whole.
    with user_mistakes(ImportError, RuntimeError):
        for line in _describe(config, console, check_listed):
            console.say(line)
        dataset = corpora.load(
            config.dataset,
            data_dir=Path(config.data_dir) if config.data_dir else None,
            cache_dir=cache_dir / "corpora",
            sample_rate_hz=config.sample_rate_hz,
            num_samples=config.num_samples,
            split=config.split,
            group_pattern=config.group_pattern,
            strict=strict,
            progress=console.progress,
            check_classes=check_listed,
        )
        splits = split_clips(dataset)
    corpus = Corpus(match_classes(config, dataset), splits)
    _say(corpus, console)
    return corpus


def _describe(config: RunConfig, console: Console, check: CheckFn) -> list[str]:
    """Returns what should be known of a folder before anything long begins."""
    if config.dataset == "tfsr" and config.data_dir is not None:
        return [describe_tfsr(config.data_dir)]
    if config.dataset != "folder" or config.data_dir is None:
        return []
    return describe_folder(
        config.data_dir,
        sample_rate_hz=config.sample_rate_hz,
        num_samples=config.num_samples,
        group_pattern=config.group_pattern,
        progress=console.progress,
        check_classes=check,
    )


def _say(corpus: Corpus, console: Console) -> None:
    dataset, splits = corpus
    for line in dataset.skipped[:10]:
        console.say(f"skipped {line}")
    if len(dataset.skipped) > 10:
        console.say(f"skipped {len(dataset.skipped)} recordings in all")
    parts = ", ".join(
        f"{name} {len(split)} of {len(np.unique(dataset.groups[split]))} groups"
        for name, split in zip(splits._fields, splits, strict=True)
    )
    console.say(f"{dataset.name}: {len(dataset.class_names)} classes; clips: {parts}")
    leaked = leaked_share(dataset, splits)
    if leaked:
        console.say(
            f"{leaked:.0%} of the test clips share a source recording with training "
            "clips: accuracies and success rates are too high"
        )
