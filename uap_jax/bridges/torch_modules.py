"""PyTorch modules as classifiers.

A gradient needs the graph of its forward pass. The graph of the last one is kept, in
case the gradient of the same clips follows, as it does in every attack; if other clips
come, the forward pass is run again. So the functions stay pure, whatever order a
compiled program calls them in, and each pass is run once.
"""

import contextlib
import itertools
import math
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from uap_jax.attacks.checks import check_size
from uap_jax.bridges.callback import from_numpy_vjp
from uap_jax.bridges.checks import ClassifierError
from uap_jax.models.classifier import Classifier

# PyTorch is optional, so that its types are Any here.
Module = Any
Tensor = Any


def from_torch(
    module: Module,
    *,
    num_classes: int,
    num_samples: int,
    sample_rate_hz: int | None = None,
    input_range: str = "box",
    clip_shape: tuple[int, ...] | None = None,
    num_threads: int | None = None,
    name: str = "module",
) -> Classifier:
    """Makes a classifier of a PyTorch module.

    The module is put into evaluation mode, and must stay in it. Its weights are read
    at every call: changing them changes the classifier.

    Args:
        module: A `torch.nn.Module`, clips `[B, *clip_shape]` float32 to logits
            `[B, C]` float32, for any B.
        num_classes: C.
        num_samples: N.
        sample_rate_hz: Samples per second that the module is made for.
        input_range: "box": the module gets clips in [0, 1]; "waveform": in [-1, 1].
        clip_shape: What the module takes a clip as, for example `(1, N)`; None: `(N,)`.
        num_threads: Threads of PyTorch during a call; None: as `torch` is set. JAX
            waits meanwhile, so all cores are free; fewer are right where several
            attacks share a machine.
        name: What errors call the module.

    Raises:
        ValueError: A setting is out of its range, the module does not keep evaluation
            mode, or it fails on probe clips.
    """
    import torch  # pyrefly: ignore[missing-import]

    if not isinstance(module, torch.nn.Module):
        raise ValueError(
            f"{name}: expected a torch.nn.Module, got {type(module).__name__}"
        )
    if num_threads is not None:
        check_size("num_threads", num_threads)
    clip_shape = (num_samples,) if clip_shape is None else clip_shape
    if math.prod(clip_shape) != num_samples:
        raise ValueError(
            f"clip_shape: expected {num_samples} samples in all, got {clip_shape}"
        )
    on_host = _ModuleOnHost(module, name, clip_shape, num_threads)
    return from_numpy_vjp(
        on_host.forward,
        on_host.vjp,
        forward_before_vjp=on_host.forward_before_vjp,
        name=name,
        num_classes=num_classes,
        num_samples=num_samples,
        sample_rate_hz=sample_rate_hz,
        input_range=input_range,
    )


class _ModuleOnHost:
    """A module as functions on NumPy arrays."""

    def __init__(
        self,
        module: Module,
        name: str,
        clip_shape: tuple[int, ...],
        num_threads: int | None,
    ) -> None:
        import torch  # pyrefly: ignore[missing-import]

        self._torch = torch
        self._module = module
        self._name = name
        self._clip_shape = clip_shape
        self._num_threads = num_threads
        weights = itertools.chain(module.parameters(), module.buffers())
        first = next(weights, None)
        self._device = torch.device("cpu") if first is None else first.device
        # A compiled program may call from several threads.
        self._lock = threading.Lock()
        # Clips `[B, N]` and logits `[B, C]` whose graph still exists.
        self._last_pass: tuple[Tensor, Tensor] | None = None
        try:
            module.eval()
            self._layers = list(module.modules())
        except NotImplementedError:
            # What torch.export writes has one mode for good.
            self._layers = []

    def forward(self, clips: np.ndarray) -> np.ndarray:
        """`[B, N]` to `[B, C]`."""
        with self._one_call(), self._torch.no_grad():
            return self._logits(self._torch.from_numpy(clips)).numpy()

    def forward_before_vjp(self, clips: np.ndarray) -> np.ndarray:
        """`forward`, and keeps the graph."""
        with self._one_call():
            self._last_pass = self._pass_of(clips)
            return self._last_pass[1].detach().numpy()

    def vjp(self, clips: np.ndarray, cotangents: np.ndarray) -> np.ndarray:
        """Clips `[B, N]` and cotangents `[B, C]` to the gradient `[B, N]`."""
        with self._one_call():
            last, self._last_pass = self._last_pass, None
            if last is None or not _has_same_bits(last[0], clips):
                last = self._pass_of(clips)
            inputs, logits = last
            (gradient,) = self._torch.autograd.grad(
                logits, inputs, self._torch.from_numpy(cotangents)
            )
            return gradient.numpy()

    def _pass_of(self, clips: np.ndarray) -> tuple[Tensor, Tensor]:
        inputs = self._torch.from_numpy(clips).requires_grad_()
        with self._torch.enable_grad():
            # A module may write to what it is given.
            logits = self._logits(inputs.clone())
        if not logits.requires_grad:
            raise ClassifierError(
                f"{self._name}: expected logits with a gradient, got some that are "
                "detached from the clips; use from_numpy to evaluate only"
            )
        return inputs, logits

    def _logits(self, clips: Tensor) -> Tensor:
        if any(layer.training for layer in self._layers):
            raise ClassifierError(
                f"{self._name}: expected evaluation mode, got a layer in training mode"
            )
        shape = (clips.shape[0], *self._clip_shape)
        logits = self._module(clips.to(self._device).reshape(shape))
        if not isinstance(logits, self._torch.Tensor):
            raise ClassifierError(
                f"{self._name}: expected logits as a tensor, got "
                f"{type(logits).__name__}; wrap the module in one that returns them"
            )
        return logits.cpu()

    @contextlib.contextmanager
    def _one_call(self) -> Iterator[None]:
        """Admits one call at a time, with the requested threads."""
        with self._lock:
            before = self._torch.get_num_threads()
            if self._num_threads is not None:
                self._torch.set_num_threads(self._num_threads)
            try:
                yield
            finally:
                if self._num_threads is not None:
                    self._torch.set_num_threads(before)


def _has_same_bits(inputs: Tensor, clips: np.ndarray) -> bool:
    bits = inputs.detach().numpy().view(np.uint32)
    return np.array_equal(bits, clips.view(np.uint32))
