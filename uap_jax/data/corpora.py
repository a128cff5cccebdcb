"""The corpora by name."""

from pathlib import Path
from typing import Any, Literal

from uap_jax.data.dataset import Dataset, ProgressFn

# The corpora of Speech Commands recordings, and which folders are classes.
_CLASS_SETS: dict[str, Literal["auto", "paper32", "kaggle12"]] = {
    "speech_commands": "auto",
    "speech_commands_paper32": "paper32",
    "speech_commands_kaggle12": "kaggle12",
}

# Made here, of nothing.
BUILT_IN = ("synthetic_speech", "synthetic_urban")
CORPUS_NAMES = (
    *(*BUILT_IN, *_CLASS_SETS, "tfsr"),
    *("urbansound8k", "esc10", "esc50", "folder"),
)

# What a model is used with: without recordings, and with a folder of them.
DEFAULT_CORPORA = {
    "spchcmd": ("synthetic_speech", "speech_commands"),
    **dict.fromkeys(
        (
            *("cnn_rand", "cnn_gamma", "envnet_v2", "envnet_v2_deep"),
            *("sincnet", "sincnet_vgg19"),
        ),
        ("synthetic_urban", "urbansound8k"),
    ),
}


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
) -> Dataset:
    """Loads a corpus, from the cache where it is there.

    Args:
        name: One of `CORPUS_NAMES`.
        data_dir: The folder of recordings, or for "folder" a table of them; None for
            a built-in corpus.
        cache_dir: Where prepared clips are kept.
        sample_rate_hz: Samples per second wanted.
        num_samples: Samples of a clip wanted.
        split: "official", the corpus's own splits, or, for urbansound8k, "paper",
            random ones; None: "official".
        group_pattern: For "folder" only, see `folder.load_folder`.
        strict: Whether one bad recording is an error.
        progress: Told how far the preparation is.

    Raises:
        ValueError: A name is unknown, or the folder is missing, superfluous or not
            in the corpus's layout.
    """
    if name not in CORPUS_NAMES:
        raise ValueError(f"dataset: expected one of {CORPUS_NAMES}, got {name!r}")
    splits = ("official", "paper") if name == "urbansound8k" else ("official",)
    if split is not None and split not in splits:
        raise ValueError(f"split: expected one of {splits} for {name}, got {split!r}")
    if group_pattern is not None and name != "folder":
        raise ValueError(f"group_pattern: {name} has groups of its own")
    if name in BUILT_IN:
        return _load_built_in(
            name, data_dir, cache_dir, sample_rate_hz, num_samples, progress
        )
    if data_dir is None:
        raise ValueError(f"data_dir: {name} needs the folder of the archive")
    settings: dict[str, Any] = {
        "cache_dir": cache_dir,
        "sample_rate_hz": sample_rate_hz,
        "num_samples": num_samples,
        "strict": strict,
        "progress": progress,
    }
    if name == "urbansound8k":
        from uap_jax.data.urbansound8k import load_urbansound8k

        settings["split"] = split or "official"
        return load_urbansound8k(data_dir, **settings)
    if name in ("esc10", "esc50"):
        from uap_jax.data.esc import load_esc

        return load_esc(data_dir, subset=name, **settings)
    if name == "tfsr":
        from uap_jax.data.tfsr import load_tfsr

        return load_tfsr(data_dir, **settings)
    if name == "folder":
        from uap_jax.data.folder import load_folder

        return load_folder(data_dir, group_pattern=group_pattern, **settings)
    from uap_jax.data.speech_commands import load_speech_commands

    return load_speech_commands(data_dir, class_set=_CLASS_SETS[name], **settings)


def _load_built_in(
    name: str,
    data_dir: Path | None,
    cache_dir: Path,
    sample_rate_hz: int,
    num_samples: int,
    progress: ProgressFn | None,
) -> Dataset:
    if data_dir is not None:
        raise ValueError(f"data_dir: {name} is built in and takes no folder")
    made = 16_000 if name == "synthetic_speech" else 50_999
    if (sample_rate_hz, num_samples) != (16_000, made):
        raise ValueError(
            f"dataset: {name} has clips of {made} samples at 16000 Hz, the "
            f"model needs {num_samples} at {sample_rate_hz} Hz"
        )
    if name == "synthetic_speech":
        from uap_jax.data.synthetic.speech import load_synthetic_speech

        return load_synthetic_speech(cache_dir=cache_dir, progress=progress)
    from uap_jax.data.synthetic.urban import load_synthetic_urban

    return load_synthetic_urban(cache_dir=cache_dir, progress=progress)
