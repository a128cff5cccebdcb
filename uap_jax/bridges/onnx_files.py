"""ONNX files as classifiers, by way of PyTorch."""

import os
from typing import TYPE_CHECKING

from uap_jax.bridges.checks import one_line
from uap_jax.bridges.torch_modules import module_classifier
from uap_jax.models.classifier import Classifier

if TYPE_CHECKING:
    import torch  # pyrefly: ignore[missing-import]


def from_onnx(
    path: str | os.PathLike[str],
    *,
    num_classes: int,
    num_samples: int,
    sample_rate_hz: int | None = None,
    input_range: str = "box",
    clip_shape: tuple[int, ...] | None = None,
    num_threads: int | None = None,
) -> Classifier:
    """Makes a classifier of an ONNX file.

    onnx2torch makes a PyTorch module of it; of many operations it knows what they were
    in opset 17 and before. What is exported must take any number of clips (a dynamic
    first dimension).

    Args:
        path: The file, of a network with one input and one output.
        num_classes, num_samples, sample_rate_hz, input_range: As for `from_torch`.
        clip_shape, num_threads: As for `from_torch`.

    Returns:
        The classifier.

    Raises:
        ImportError: onnx or onnx2torch is not installed, or cannot be loaded.
        OSError: The file cannot be read.
        ValueError: It is no ONNX file, is damaged, has operations that onnx2torch does
            not know, or the network fails as in `from_torch`.
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
        import onnx  # pyrefly: ignore[missing-import]
        import onnx2torch  # pyrefly: ignore[missing-import]
    # A torchvision of another version than PyTorch's fails with a RuntimeError.
    except (ImportError, RuntimeError) as error:
        raise ImportError(
            "from_onnx needs onnx and onnx2torch: pip install 'uap_jax[bridges]' "
            f"({one_line(error)})"
        ) from error
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except OSError:
        raise
    # Of protobuf and of onnx, whichever sees the damage first.
    except Exception as error:
        raise ValueError(
            f"{path}: expected an ONNX file, got {one_line(error)}"
        ) from error
    try:
        return onnx2torch.convert(model)
    except Exception as error:
        raise ValueError(
            f"{path}: expected operations that onnx2torch knows (up to opset 17), got "
            f"{one_line(error)}"
        ) from error
