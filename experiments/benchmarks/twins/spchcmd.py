"""SpchCMD and the penalty attack's step as one would write them in PyTorch."""

import copy
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from uap_jax.attacks import PenaltyConfig
from uap_jax.audio.levels import SILENCE_DB
from uap_jax.models.spchcmd import FRAME_HOP, SEPARABLE_LAYERS


class SeparableConv(nn.Module):
    """`[B, C, 1, T] -> [B, features, 1, T']`; stride 2 is padded as TensorFlow does."""

    def __init__(self, num_channels: int, features: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.depthwise = nn.Conv2d(
            num_channels,
            num_channels,
            (1, 3),
            (1, stride),
            groups=num_channels,
            bias=False,
        )
        self.pointwise = nn.Conv2d(num_channels, features, 1, bias=False)
        self.norm = nn.BatchNorm2d(features)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 2:
            x = functional.pad(x, (x.shape[3] % 2, 1))
        return functional.relu6(self.norm(self.pointwise(self.depthwise(x))))


class SpchCMD(nn.Module):
    """`[B, N]` clips in the box [0, 1] to `[B, C]` logits, in evaluation mode.

    Convolutions over time are two-dimensional ones of height 1, which PyTorch turns
    them into anyway: only these can be laid out with the channels last.
    """

    def __init__(self, *, num_classes: int, num_samples: int) -> None:
        super().__init__()
        num_frames = -(-num_samples // FRAME_HOP)
        missing = (num_frames + 1) * FRAME_HOP - num_samples
        self.padding = (missing // 2, missing - missing // 2)
        self.frames = nn.Conv2d(2 * FRAME_HOP, 64, (1, 3), (1, 2), bias=False)
        self.norm = nn.BatchNorm2d(64)
        layers, num_channels = [], 64
        num_steps = (num_frames - 3) // 2 + 1
        for features, stride in SEPARABLE_LAYERS:
            layers.append(SeparableConv(num_channels, features, stride))
            num_steps = num_steps - 2 if stride == 1 else -(-num_steps // 2)
            num_channels = features
        self.separable = nn.Sequential(*layers)
        self.attention = nn.Linear(num_channels * num_steps, num_steps, bias=False)
        self.logits = nn.Linear(num_channels, num_classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x - x.mean(dim=1, keepdim=True)
        frames = functional.pad(x, self.padding).unfold(1, 2 * FRAME_HOP, FRAME_HOP)
        x = frames.transpose(1, 2)[:, :, None]
        x = self.separable(functional.relu6(self.norm(self.frames(x))))[:, :, 0]
        weights = self.attention(x.flatten(1)).softmax(dim=1)
        return self.logits((x * weights[:, None]).sum(dim=2))


def twin_of(variables: Mapping[str, Any], *, num_samples: int) -> SpchCMD:
    """Returns the PyTorch network with the weights of the Flax one, frozen."""
    params, statistics = variables["params"], variables["batch_stats"]
    num_classes = params["logits"]["kernel"].shape[1]
    twin = SpchCMD(num_classes=num_classes, num_samples=num_samples)
    num_steps = params["attention"]["kernel"].shape[1]
    # Flax flattens [T, C], the twin [C, T].
    attention = np.asarray(params["attention"]["kernel"]).reshape(
        num_steps, -1, num_steps
    )
    state = {
        "frames.weight": np.transpose(params["frames"]["kernel"], (2, 1, 0))[
            :, :, None
        ],
        "attention.weight": np.transpose(attention, (2, 1, 0)).reshape(num_steps, -1),
        "logits.weight": np.transpose(params["logits"]["kernel"]),
        **_norm_state("norm", params["frames"], statistics["frames"]),
    }
    for index in range(len(SEPARABLE_LAYERS)):
        layer, name = params[f"separable_{index}"], f"separable.{index}"
        state |= {
            f"{name}.depthwise.weight": np.transpose(layer["depthwise"])[:, None, None],
            f"{name}.pointwise.weight": np.transpose(layer["pointwise"]["kernel"])[
                :, :, None, None
            ],
            **_norm_state(f"{name}.norm", layer, statistics[f"separable_{index}"]),
        }
    tensors = {name: torch.from_numpy(np.array(leaf)) for name, leaf in state.items()}
    missing, unexpected = twin.load_state_dict(tensors, strict=False)
    # BatchNorm counts the batches it has seen; evaluation does not use the count.
    assert all(name.endswith("num_batches_tracked") for name in missing), missing
    assert not unexpected, unexpected
    return twin.eval().requires_grad_(False)


def tuned(twin: SpchCMD) -> SpchCMD:
    """Returns the network with norms folded into convolutions, and channels last.

    Frozen weights allow the first; the second is the layout of PyTorch's fast CPU
    convolutions. As far as one gets without writing the network anew.
    """
    twin = copy.deepcopy(twin)
    twin.frames = fuse_conv_bn_eval(twin.frames, twin.norm)
    twin.norm = nn.Identity()
    for layer in twin.separable:
        layer.pointwise = fuse_conv_bn_eval(layer.pointwise, layer.norm)
        layer.norm = nn.Identity()
    return twin.to(memory_format=torch.channels_last).requires_grad_(False)


def _norm_state(
    name: str, params: Mapping[str, Any], statistics: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        f"{name}.weight": params["norm"]["scale"],
        f"{name}.bias": params["norm"]["bias"],
        f"{name}.running_mean": statistics["norm"]["mean"],
        f"{name}.running_var": statistics["norm"]["var"],
    }


def hinge_sum(
    network: nn.Module,
    x_tanh: Tensor,
    value: Tensor,
    *,
    target: int,
    config: PenaltyConfig,
) -> Tensor:
    """The sum of the hinges of these clips, Eq. 10 (targeted)."""
    logits = network(0.5 * (torch.tanh(x_tanh + value) + 1))
    is_target = torch.arange(logits.shape[1], device=logits.device) == target
    margin = logits.masked_fill(is_target, -math.inf).amax(dim=1) - logits[:, target]
    return margin.clamp(min=-config.confidence).sum()


def spl_db(value: Tensor) -> Tensor:
    """Sound pressure level, with the same guard at silence as `uap_jax`."""
    return 10 * torch.log10(value.square().mean().clamp(min=10 ** (SILENCE_DB / 10)))


def penalty_steps(
    network: nn.Module,
    x_tanh: Tensor,
    *,
    num_steps: int,
    micro_batch_size: int,
    target: int,
    config: PenaltyConfig,
) -> Tensor:
    """Takes steps of the attack from v' = 0 over random batches; returns v' `[N]`."""
    value = torch.zeros_like(x_tanh[0], requires_grad=True)
    optimizer = torch.optim.Adam([value], lr=config.learning_rate)
    order = torch.randperm(len(x_tanh), device=x_tanh.device)
    batches = order.split(config.batch_size)[:num_steps]
    for batch in batches:
        optimizer.zero_grad()
        for index in batch.split(micro_batch_size):
            hinges = hinge_sum(
                network, x_tanh[index], value, target=target, config=config
            )
            (config.penalty_coefficient * hinges).backward()
        spl_db(value).backward()
        optimizer.step()
    return value.detach()
