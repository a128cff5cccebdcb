"""The networks for environmental sounds as one would write them in PyTorch.

All take `[B, N]` clips in the box [0, 1] and give `[B, C]` logits, in evaluation mode;
inside, channels come before steps. Modules have the names they have in Flax.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from flax import traverse_util
from torch import Tensor, nn
from torch.nn import functional

from uap_jax.models import cnn_gamma, cnn_rand, envnet_v2, sinc, sincnet, sincnet_vgg19

SAMPLE_RATE_HZ = 16_000
# How the modules are called that hold a convolution and a norm: the scale and the bias
# of the norm are there in Flax, and in the norm here.
BLOCK_NAMES = ("block_", "wave_", "map_", "bank")

Layers = dict[str, nn.Module]


class Apply(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class SincBank(nn.Module):
    """`[B, 1, N] -> [B, num_filters, N - 250]`; parameters in cycles per sample."""

    def __init__(self, num_filters: int) -> None:
        super().__init__()
        self.low = nn.Parameter(torch.empty(num_filters))
        self.width = nn.Parameter(torch.empty(num_filters))
        half = sinc.KERNEL_SIZE // 2
        self.register_buffer("t", torch.arange(-half, half + 1.0), persistent=False)
        # In float64 also where the weights are float32: rounded once, it would be short
        # of digits when they are float64.
        self.window = torch.from_numpy(np.hamming(sinc.KERNEL_SIZE))

    def forward(self, x: Tensor) -> Tensor:
        low = self.low.abs()[:, None] + sinc.MIN_EDGE_HZ / SAMPLE_RATE_HZ
        width = self.width.abs()[:, None] + sinc.MIN_WIDTH_HZ / SAMPLE_RATE_HZ
        carrier = torch.cos(torch.pi * self.t * (2 * low + width))
        window = self.window.to(x.device, x.dtype)
        filters = window * carrier * torch.sinc(self.t * width)
        return functional.conv1d(x, filters[:, None])


class ChannelNorm(nn.LayerNorm):
    """Normalises each step of `[B, C, T]` over its channels."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


def twin_of(name: str, variables: Mapping[str, Any]) -> nn.Module:
    """Returns the PyTorch network with the weights of the Flax one, frozen."""
    params = variables["params"]
    layers, num_channels = _BUILDERS[name](params)
    twin = nn.Sequential()
    for layer_name, layer in layers.items():
        twin.add_module(layer_name, layer)
    state = {
        _torch_name(*path): torch.from_numpy(_torch_value(path, leaf, num_channels))
        for path, leaf in traverse_util.flatten_dict(variables).items()
    }
    missing, unexpected = twin.load_state_dict(state, strict=False)
    # BatchNorm counts the batches it has seen; evaluation does not use the count.
    assert all(name.endswith("num_batches_tracked") for name in missing), missing
    assert not unexpected, unexpected
    return twin.eval().requires_grad_(False)


def _cnn_rand(params: Mapping[str, Any]) -> tuple[Layers, int]:
    trunk, num_channels = _trunk(1, cnn_rand.CONV_LAYERS)
    return {"centre": Apply(_centred), "trunk": trunk, **_head(params)}, num_channels


def _cnn_gamma(params: Mapping[str, Any]) -> tuple[Layers, int]:
    bank = _block(
        1,
        cnn_gamma.NUM_FILTERS,
        (cnn_gamma.NUM_TAPS,),
        window=(cnn_gamma.POOL_SIZE,),
    )
    trunk, num_channels = _trunk(cnn_gamma.NUM_FILTERS, cnn_rand.CONV_LAYERS[1:])
    layers = {"centre": Apply(_centred), "bank": bank, "trunk": trunk, **_head(params)}
    return layers, num_channels


def _envnet_v2(params: Mapping[str, Any]) -> tuple[Layers, int]:
    layers: Layers = {"centre": Apply(_centred)}
    num_channels = 1
    for index, (features, size, stride, pool_size) in enumerate(envnet_v2.WAVE_LAYERS):
        window = (pool_size,) if pool_size else None
        layers[f"wave_{index}"] = _block(
            num_channels, features, (size,), stride, window
        )
        num_channels = features
    layers["image"] = Apply(lambda x: x[:, None])
    num_channels = 1
    for index, (features, sizes, window) in enumerate(envnet_v2.MAP_LAYERS):
        layers[f"map_{index}"] = _block(num_channels, features, sizes, window=window)
        num_channels = features
    return {**layers, **_head(params)}, num_channels


def _sincnet(params: Mapping[str, Any]) -> tuple[Layers, int]:
    num_channels = sincnet.NUM_FILTERS
    layers: Layers = {
        "centre": Apply(_centred),
        "sinc": SincBank(num_channels),
        "pool": nn.MaxPool1d(sincnet.POOL_SIZE),
        "sinc_norm": ChannelNorm(num_channels, eps=1e-6),
        "leak": _leaky_relu(),
    }
    for index, (features, pool_size) in enumerate(sincnet.CONV_LAYERS):
        layers[f"conv_{index}"] = nn.Conv1d(num_channels, features, sincnet.CONV_SIZE)
        if pool_size:
            layers[f"conv_pool_{index}"] = nn.MaxPool1d(pool_size)
        layers[f"conv_norm_{index}"] = ChannelNorm(features, eps=1e-6)
        layers[f"conv_leak_{index}"] = _leaky_relu()
        num_channels = features
    layers["flatten"] = nn.Flatten()
    for index, features in enumerate(sincnet.HIDDEN):
        layers[f"dense_{index}"] = _linear(params[f"dense_{index}"])
        layers[f"dense_norm_{index}"] = nn.BatchNorm1d(features)
        layers[f"dense_leak_{index}"] = _leaky_relu()
    return {**layers, "logits": _linear(params["logits"])}, num_channels


def _sincnet_vgg19(params: Mapping[str, Any]) -> tuple[Layers, int]:
    num_filters = sincnet_vgg19.NUM_FILTERS
    layers: Layers = {
        "centre": Apply(_centred),
        "sinc": SincBank(num_filters),
        "pool": nn.MaxPool1d(sincnet_vgg19.POOL_SIZE),
        "sinc_norm": ChannelNorm(num_filters, eps=1e-6),
        "image": Apply(lambda x: x.transpose(1, 2)[:, None]),
    }
    num_channels = 1
    for group, (num_layers, features) in enumerate(sincnet_vgg19.VGG19_GROUPS):
        for index in range(num_layers):
            layers[f"conv_{group}_{index}"] = nn.Conv2d(
                num_channels, features, 3, padding=1
            )
            layers[f"relu_{group}_{index}"] = nn.ReLU(inplace=True)
            num_channels = features
        layers[f"pool_{group}"] = nn.MaxPool2d(2)
    return {**layers, **_head(params)}, num_channels


_BUILDERS = {
    "cnn_rand": _cnn_rand,
    "cnn_gamma": _cnn_gamma,
    "envnet_v2": _envnet_v2,
    "sincnet": _sincnet,
    "sincnet_vgg19": _sincnet_vgg19,
}


def _centred(x: Tensor) -> Tensor:
    return (x - x.mean(dim=1, keepdim=True))[:, None]


def _block(
    num_channels: int,
    features: int,
    kernel_size: tuple[int, ...],
    stride: int = 1,
    window: tuple[int, ...] | None = None,
) -> nn.Sequential:
    """Convolution, relu, batch norm, max pooling."""
    over_time = len(kernel_size) == 1
    conv, norm, pool = (
        (nn.Conv1d, nn.BatchNorm1d, nn.MaxPool1d)
        if over_time
        else (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d)
    )
    block = nn.Sequential()
    block.add_module("conv", conv(num_channels, features, kernel_size, stride))
    block.add_module("relu", nn.ReLU(inplace=True))
    block.add_module("norm", norm(features))
    if window:
        block.add_module("pool", pool(window))
    return block


def _trunk(
    num_channels: int, conv_layers: Iterable[tuple[int, int, int | None]]
) -> tuple[nn.Sequential, int]:
    trunk = nn.Sequential()
    for index, (features, size, pool_size) in enumerate(conv_layers):
        window = (pool_size,) if pool_size else None
        block = _block(num_channels, features, (size,), cnn_rand.STRIDE, window)
        trunk.add_module(f"block_{index}", block)
        num_channels = features
    return trunk, num_channels


def _head(params: Mapping[str, Any]) -> Layers:
    head = nn.Sequential()
    for index in range(len(params["head"]) - 1):
        head.add_module(f"dense_{index}", _linear(params["head"][f"dense_{index}"]))
        head.add_module(f"relu_{index}", nn.ReLU(inplace=True))
    head.add_module("logits", _linear(params["head"]["logits"]))
    return {"flatten": nn.Flatten(), "head": head}


def _linear(params: Mapping[str, Any]) -> nn.Linear:
    return nn.Linear(*params["kernel"].shape)


def _leaky_relu() -> nn.LeakyReLU:
    return nn.LeakyReLU(sincnet.LEAK, inplace=True)


def _torch_name(collection: str, *path: str) -> str:
    *modules, leaf = path
    if modules[-1].startswith(BLOCK_NAMES):
        modules.append("conv" if collection == "frozen" else "norm")
    names = {
        "kernel": "weight",
        "filters": "weight",
        "scale": "weight",
        "mean": "running_mean",
        "var": "running_var",
    }
    return ".".join([*modules, names.get(leaf, leaf)])


def _torch_value(path: tuple[str, ...], leaf: Any, num_channels: int) -> np.ndarray:
    value = np.asarray(leaf)
    if path[-1] == "filters":
        value = value.T[:, None]
    elif path[-1] == "kernel":
        if path[-2] == "dense_0":
            # Flax flattens [..., channels], the twin [channels, ...].
            shape = value.shape
            value = value.reshape(-1, num_channels, shape[1]).swapaxes(0, 1)
            value = value.reshape(shape)
        # [..., I, O] to [O, I, ...].
        steps = range(value.ndim - 2)
        value = value.transpose(value.ndim - 1, value.ndim - 2, *steps)
    return np.array(value, order="C")
