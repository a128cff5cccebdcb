"""The corpora by name."""

from pathlib import Path
from typing import Literal

from uap_jax.data.dataset import Dataset, ProgressFn

# The corpora of Speech Commands recordings, and which folders are classes.
_CLASS_SETS: dict[str, Literal["auto", "paper32", "kaggle12"]] = {
    "speech_commands": "auto",
    "speech_commands_paper32": "paper32",
    "speech_commands_kaggle12": "kaggle12",
}

CORPUS_NAMES = ("synthetic_speech", *_CLASS_SETS)

# What a model is used with: without recordings, and with a folder of them.
DEFAULT_CORPORA = {"spchcmd": ("synthetic_speech", "speech_commands")}


def load(
    name: str,
    *,
    data_dir: Path | None,
    cache_dir: Path,
    sample_rate_hz: int,
    num_samples: int,
    strict: bool = False,
    progress: ProgressFn | None = None,
) -> Dataset:
    """Loads a corpus, from the cache where it is there.

    Args:
        name: One of `CORPUS_NAMES`.
        data_dir: The folder of recordings; None for a built-in corpus.
        cache_dir: Where prepared clips are kept.
        sample_rate_hz: Samples per second wanted.
        num_samples: Samples of a clip wanted.
        strict: Whether one bad recording is an error.
        progress: Told how far the preparation is.

    Raises:
        ValueError: The name is unknown, or the folder is missing, superfluous or not
            in the corpus's layout.
    """
    if name not in CORPUS_NAMES:
        raise ValueError(f"dataset: expected one of {CORPUS_NAMES}, got {name!r}")
    if name == "synthetic_speech":
        return _load_synthetic_speech(
            data_dir, cache_dir, sample_rate_hz, num_samples, progress
        )
    from uap_jax.data.speech_commands import load_speech_commands

    if data_dir is None:
        raise ValueError(f"data_dir: {name} needs the folder of the archive")
    return load_speech_commands(
        data_dir,
        cache_dir=cache_dir,
        sample_rate_hz=sample_rate_hz,
        num_samples=num_samples,
        class_set=_CLASS_SETS[name],
        strict=strict,
        progress=progress,
    )


def _load_synthetic_speech(
    data_dir: Path | None,
    cache_dir: Path,
    sample_rate_hz: int,
    num_samples: int,
    progress: ProgressFn | None,
) -> Dataset:
    from uap_jax.data.synthetic_speech import load_synthetic_speech

    if data_dir is not None:
        raise ValueError("data_dir: synthetic_speech is built in and takes no folder")
    if (sample_rate_hz, num_samples) != (16_000, 16_000):
        raise ValueError(
            "dataset: synthetic_speech has clips of 16000 samples at 16000 Hz, the "
            f"model needs {num_samples} at {sample_rate_hz} Hz"
        )
    return load_synthetic_speech(cache_dir=cache_dir, progress=progress)
