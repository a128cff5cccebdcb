"""The corpora by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from uap_jax.data.dataset import Dataset, ProgressFn
from uap_jax.data.decoding import CheckFn, Decoding
from uap_jax.data.esc import load_esc
from uap_jax.data.folder import load_folder, median_s
from uap_jax.data.speech_commands import load_speech_commands
from uap_jax.data.synthetic import speech, urban
from uap_jax.data.tfsr import load_tfsr
from uap_jax.data.urbansound8k import SPLITS, load_urbansound8k

# Loaders of recordings, with their settings.
_RECORDED: dict[str, tuple[Callable[..., Dataset], dict[str, Any]]] = {
    "speech_commands": (load_speech_commands, {"class_set": "auto"}),
    "speech_commands_paper32": (load_speech_commands, {"class_set": "paper32"}),
    "speech_commands_kaggle12": (load_speech_commands, {"class_set": "kaggle12"}),
    "tfsr": (load_tfsr, {}),
    "urbansound8k": (load_urbansound8k, {}),
    "esc10": (load_esc, {"subset": "esc10"}),
    "esc50": (load_esc, {"subset": "esc50"}),
    "folder": (load_folder, {}),
}
# Synthesised, and the length of their clips at 16 kHz.
_BUILT_IN = {
    "synthetic_speech": (speech.load_synthetic_speech, speech.NUM_SAMPLES),
    "synthetic_urban": (urban.load_synthetic_urban, urban.NUM_SAMPLES),
}
BUILT_IN = tuple(_BUILT_IN)
CORPUS_NAMES = (*BUILT_IN, *_RECORDED)

# By the length of a model's clips: its corpora without and with a folder of recordings.
DEFAULT_CORPORA = {
    speech.NUM_SAMPLES: ("synthetic_speech", "speech_commands"),
    urban.NUM_SAMPLES: ("synthetic_urban", "urbansound8k"),
}

# Seconds of a recording, where all have about the same length.
_RECORDING_S = {
    "speech_commands": 1.0,
    "speech_commands_paper32": 1.0,
    "speech_commands_kaggle12": 1.0,
    "tfsr": 1.0,
    "urbansound8k": 4.0,
    "esc10": 5.0,
    "esc50": 5.0,
}


def usual_recording_s(
    name: str, data_dir: str | None, *, group_pattern: str | None = None
) -> float:
    """Returns the length in seconds that recordings of a corpus have.

    Args:
        name, data_dir, group_pattern: See `load`. Of a folder it is the median.

    Raises:
        ValueError: The folder is in no known layout, or nothing in it can be read.
    """
    if name in _BUILT_IN:
        return _BUILT_IN[name][1] / 16_000
    if name in _RECORDING_S or data_dir is None:
        return _RECORDING_S[name]
    return median_s(data_dir, group_pattern=group_pattern)


def load(
    name: str,
    *,
    data_dir: Path | None,
    cache_dir: Path,
    sample_rate_hz: int,
    num_samples: int,
    split: str | None = None,
    group_pattern: str | None = None,
    strict: bool = False,
    progress: ProgressFn | None = None,
    check_classes: CheckFn | None = None,
) -> Dataset:
    """Loads a corpus, from the cache if it is there.

    Args:
        name: One of `CORPUS_NAMES`.
        data_dir: The folder of recordings, or for "folder" a table of them; None for
            a built-in corpus.
        cache_dir: Folder of the caches.
        sample_rate_hz, num_samples: Rate and length of the clips.
        strict: Whether one unusable recording is an error.
        progress: Called as progress(what, done, total).
        check_classes: Called with the names of the classes before recordings are
            decoded; may raise.
        split: "official" (also None), the corpus's splits, or, for urbansound8k,
            "paper", random ones.
        group_pattern: For "folder" only, see `folder.load_folder`.

    Raises:
        ValueError: A name is unknown, or the folder is missing, superfluous or not
            in the corpus's layout.
    """
    if name not in CORPUS_NAMES:
        raise ValueError(f"dataset: expected one of {CORPUS_NAMES}, got {name!r}")
    splits = SPLITS if name == "urbansound8k" else ("official",)
    if split is not None and split not in splits:
        raise ValueError(f"split: expected one of {splits} for {name}, got {split!r}")
    if group_pattern is not None and name != "folder":
        raise ValueError(f"group_pattern: {name} has groups of its own")
    if name in _BUILT_IN:
        loader, made = _BUILT_IN[name]
        if data_dir is not None:
            raise ValueError(f"data_dir: {name} is built in and takes no folder")
        if (sample_rate_hz, num_samples) != (16_000, made):
            raise ValueError(
                f"dataset: {name} has clips of {made} samples at 16000 Hz, the "
                f"model needs {num_samples} at {sample_rate_hz} Hz"
            )
        return loader(cache_dir=cache_dir, progress=progress)
    if data_dir is None:
        raise ValueError(f"data_dir: {name} needs the folder of the archive")
    loader, settings = _RECORDED[name]
    if name == "urbansound8k":
        settings = {"split": split or "official"}
    if name == "folder":
        settings = {"group_pattern": group_pattern}
    decoding = Decoding(
        cache_dir,
        sample_rate_hz=sample_rate_hz,
        num_samples=num_samples,
        strict=strict,
        progress=progress,
        check_classes=check_classes,
    )
    return loader(data_dir, decoding, **settings)
