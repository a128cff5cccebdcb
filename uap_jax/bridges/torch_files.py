"""Files of PyTorch with a whole network in them, as classifiers."""

import os
import warnings
import zipfile
from typing import TYPE_CHECKING

from uap_jax.bridges.checks import one_line
from uap_jax.bridges.torch_modules import module_classifier
from uap_jax.models.classifier import Classifier

if TYPE_CHECKING:
    import torch  # pyrefly: ignore[missing-import]


def from_torch_file(
    path: str | os.PathLike[str],
    *,
    num_classes: int,
    num_samples: int,
    sample_rate_hz: int | None = None,
    input_range: str = "box",
    clip_shape: tuple[int, ...] | None = None,
    num_threads: int | None = None,
) -> Classifier:
    """Makes a classifier of a file of `torch.jit.save` or `torch.export.save`.

    Such a file is a program: load none that you do not trust. What is exported must
    take any number of clips (a dynamic first dimension), in evaluation mode.

    Args:
        path: The file, TorchScript (usually .pt) or an exported program (.pt2).
        num_classes, num_samples, sample_rate_hz, input_range: As for `from_torch`.
        clip_shape, num_threads: As for `from_torch`.

    Returns:
        The classifier.

    Raises:
        ImportError: PyTorch is not installed.
        OSError: The file cannot be read.
        ValueError: It holds no such network, is damaged, or the network fails as in
            `from_torch`.
    """
    return module_classifier(
        _load(os.fspath(path)),
        name=str(path),
        num_classes=num_classes,
        num_samples=num_samples,
        sample_rate_hz=sample_rate_hz,
        input_range=input_range,
        clip_shape=clip_shape,
        num_threads=num_threads,
    )


def _load(path: str) -> "torch.nn.Module":
    try:
        import torch  # pyrefly: ignore[missing-import]
    except ImportError as error:
        raise ImportError(
            "from_torch_file needs PyTorch: pip install 'uap_jax[bridges]'"
        ) from error
    expected = f"{path}: expected a file of torch.jit.save or torch.export.save, got"
    kind = _kind_of(path, expected)
    try:
        if kind == "exported program":
            return torch.export.load(path).module()
        with warnings.catch_warnings():
            # Deprecated or not, it is what there is.
            for kind in (DeprecationWarning, FutureWarning):
                warnings.simplefilter("ignore", kind)
            return torch.jit.load(path, map_location="cpu")
    # Each version of PyTorch finds other words for damage.
    except Exception as error:
        raise ValueError(f"{expected} a damaged one ({one_line(error)})") from error


def _kind_of(path: str, expected: str) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            # All is in one folder, but for exported programs of old.
            names = {name.partition("/")[2] or name for name in archive.namelist()}
    except zipfile.BadZipFile as error:
        raise ValueError(f"{expected} something else, or half of one") from error
    if names & {"archive_format", "serialized_exported_program.json"}:
        return "exported program"
    if "constants.pkl" in names:
        return "TorchScript"
    if "data.pkl" in names:
        raise ValueError(
            f"{expected} one of torch.save; build the network, load its weights from "
            "the file and use from_torch"
        )
    raise ValueError(f"{expected} another archive")
