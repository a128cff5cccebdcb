"""Checkpoints of Hugging Face's transformers in a folder, as `save_pretrained` writes.

config.json, the weights in safetensors, and preprocessor_config.json. Nothing is
downloaded, and no code of a checkpoint is run.
"""

import contextlib
import hashlib
import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

from uap_jax.bridges.checks import one_line
from uap_jax.bridges.hugging_face.families import FAMILIES, Extractor
from uap_jax.bridges.hugging_face.models import from_transformers
from uap_jax.errors import UsageError
from uap_jax.models.classifier import Classifier

_CONFIG = "config.json"
_EXTRACTOR = "preprocessor_config.json"
# Where a processor of several parts is saved as one.
_PROCESSOR = "processor_config.json"
# Weights that only a training needs; older checkpoints lack them.
_UNUSED_WEIGHTS = {"masked_spec_embed"}


def is_checkpoint(path: Path) -> bool:
    """Returns whether a path is a folder of a checkpoint."""
    return (path / _CONFIG).is_file()


def files_of(path: Path) -> list[Path]:
    """Returns the files that the logits depend on."""
    settings = [path / name for name in (_CONFIG, _EXTRACTOR, _PROCESSOR)]
    return [*filter(Path.is_file, settings), *sorted(path.glob("*.safetensors*"))]


def default_num_samples(path: Path, recording_s: float) -> int:
    """Returns the samples of a recording, or of what a checkpoint hears, if fewer.

    Raises:
        UsageError: The folder holds no checkpoint of a supported model.
    """
    architecture = _architecture(path)
    extractor = _read_extractor(path, architecture)
    longest = FAMILIES[architecture].max_samples(extractor)
    num_samples = round(recording_s * extractor.sampling_rate)
    return num_samples if longest is None else min(num_samples, longest)


def read_checkpoint(path: Path, *, num_samples: int) -> tuple[Classifier, str, str]:
    """Returns the network of a checkpoint, a hash of its files, and what to say of it.

    Args:
        path: The folder.
        num_samples: N, samples of a clip.

    Raises:
        UsageError: A file is missing or damaged, or the model cannot be attacked.
    """
    architecture = _architecture(path)
    extractor = _read_extractor(path, architecture)
    model = _read_model(path, architecture)
    try:
        classifier = from_transformers(model, extractor, num_samples=num_samples)
    except ValueError as error:
        message = str(error)
        if message.startswith("num_samples: "):
            # It comes from this flag.
            message = f"--clip_samples{message.removeprefix('num_samples')}"
        else:
            message = f"--model={path}: {message}"
        raise UsageError(message) from error
    if classifier.class_names is None:
        raise UsageError(
            f"{path / _CONFIG}: expected the names of the classes in id2label, in the "
            "order of the logits, got LABEL_0, LABEL_1, ...; write them there"
        )
    digest = hashlib.sha256(str(num_samples).encode())
    for file in files_of(path):
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return classifier, digest.hexdigest(), _note(path)


def _architecture(path: Path) -> str:
    stated = _read_json(path / _CONFIG).get("architectures")
    if isinstance(stated, list) and len(stated) == 1 and stated[0] in FAMILIES:
        return stated[0]
    raise UsageError(
        f"{path / _CONFIG}: expected one of {', '.join(FAMILIES)} in architectures, "
        f"got {json.dumps(stated)}"
    )


def _read_extractor(path: Path, architecture: str) -> Extractor:
    expected = FAMILIES[architecture].extractor
    file = path / _EXTRACTOR
    if file.is_file():
        settings = _read_json(file)
    elif (path / _PROCESSOR).is_file():
        file = path / _PROCESSOR
        settings = _read_json(file).get("feature_extractor") or {}
    else:
        raise UsageError(
            f"--model: expected {file} with the settings of {expected}, got no such "
            "file"
        )
    # Early checkpoints do not name it.
    name = settings.get("feature_extractor_type", expected)
    if name != expected:
        raise UsageError(f"{file}: expected {expected} for {architecture}, got {name}")
    with _loading(path) as transformers:
        return getattr(transformers, expected).from_dict(settings)


def _read_model(path: Path, architecture: str) -> Any:
    with _loading(path) as transformers:
        model, loaded = getattr(transformers, architecture).from_pretrained(
            path,
            local_files_only=True,
            # Other files can hold code.
            use_safetensors=True,
            dtype="float32",
            output_loading_info=True,
        )
    # They would be drawn at random.
    missing = {
        name
        for name in loaded["missing_keys"]
        if name.rpartition(".")[2] not in _UNUSED_WEIGHTS
    }
    if missing:
        raise UsageError(
            f"--model: expected all weights of {architecture} in {path}, got none for "
            f"{', '.join(sorted(missing)[:5])}"
        )
    # Only the gradient of clips is asked for.
    return model.requires_grad_(False)


@contextlib.contextmanager
def _loading(path: Path) -> Generator[Any, None, None]:
    """Gives transformers, silent; says in one line what it raises."""
    try:
        import torch  # noqa: F401  # pyrefly: ignore[missing-import]
        import transformers  # pyrefly: ignore[missing-import]
    except ImportError as error:
        raise UsageError(
            f"--model: {path} needs PyTorch and transformers: pip install "
            f"'uap_jax[bridges]' ({one_line(error)})"
        ) from error
    log = transformers.utils.logging
    before, has_bar = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity(log.CRITICAL)
    log.disable_progress_bar()
    try:
        yield transformers
    # What damage raises depends on the file and the version.
    except Exception as error:
        raise UsageError(
            f"--model: expected a checkpoint of transformers in {path}, got "
            f"{one_line(error)}"
        ) from error
    finally:
        log.set_verbosity(before)
        if has_bar:
            log.enable_progress_bar()


def _note(path: Path) -> str:
    """Returns what a user should know of the weights, or nothing."""
    config = _read_json(path / _CONFIG)
    stored = config.get("dtype", config.get("torch_dtype")) or "float32"
    if stored == "float32":
        return ""
    return f"weights stored as {stored}; the network runs in float32"


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{file}: expected JSON, got {one_line(error)}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{file}: expected a JSON object, got another value")
    return content
