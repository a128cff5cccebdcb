"""Files of PyTorch that hold a whole network, as classifiers."""

import contextlib
import logging
import os
import warnings
import zipfile
from collections.abc import Iterator
from typing import Any

from uap_jax.bridges.checks import one_line
from uap_jax.bridges.torch_modules import Module, from_torch
from uap_jax.models.classifier import Classifier


def from_torch_file(path: str | os.PathLike[str], **settings: Any) -> Classifier:
    """Makes a classifier of a file of `torch.jit.save` or `torch.export.save`.

    Such a file is a program: load only files that you trust. An exported network must
    take any number of clips (a dynamic first dimension), in evaluation mode.

    Args:
        path: The file, TorchScript (usually .pt) or an exported program (.pt2).
        **settings: The keyword arguments of `from_torch`: num_classes, num_samples,
            sample_rate_hz, input_range, clip_shape, num_threads.

    Raises:
        ImportError: PyTorch is not installed.
        OSError: The file cannot be read.
        ValueError: It holds no such network, is damaged, or the network fails as in
            `from_torch`.
    """
    return from_torch(_load_torch(os.fspath(path)), name=str(path), **settings)


def _load_torch(path: str) -> Module:
    try:
        import torch  # pyrefly: ignore[missing-import]
    except ImportError as error:
        raise ImportError(
            "from_torch_file needs PyTorch: pip install 'uap_jax[bridges]'"
        ) from error
    expected = f"{path}: expected a file of torch.jit.save or torch.export.save, got"
    is_exported = _is_exported_program(path, expected)
    try:
        if is_exported:
            with _without_log("torch.export"):
                return torch.export.load(path).module()
        with warnings.catch_warnings():
            # TorchScript is deprecated, but many networks exist as such files.
            for category in (DeprecationWarning, FutureWarning):
                warnings.simplefilter("ignore", category)
            return torch.jit.load(path, map_location="cpu")
    # What damage raises depends on the version of PyTorch.
    except Exception as error:
        raise ValueError(f"{expected} a damaged one ({one_line(error)})") from error


@contextlib.contextmanager
def _without_log(name: str) -> Iterator[None]:
    """Silences a logger, which would print the traceback of what is raised too."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _is_exported_program(path: str, expected: str) -> bool:
    """Returns whether a file is an exported program; otherwise it is TorchScript."""
    try:
        with zipfile.ZipFile(path) as archive:
            # All is in one folder, except in early exported programs.
            names = {name.partition("/")[2] or name for name in archive.namelist()}
    # Damaged names raise UnicodeDecodeError, unknown features NotImplementedError.
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise ValueError(f"{expected} something else, or half of one") from error
    if names & {"archive_format", "serialized_exported_program.json"}:
        return True
    if "constants.pkl" in names:
        return False
    if "data.pkl" in names:
        raise ValueError(
            f"{expected} one of torch.save; build the network, load its weights from "
            "the file and use from_torch"
        )
    raise ValueError(f"{expected} another archive")
