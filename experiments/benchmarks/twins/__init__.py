"""The networks in PyTorch, with the weights of those of `uap_jax`."""

import copy
from collections.abc import Mapping
from typing import Any

import torch

from twins import environmental, spchcmd


def variants_of(
    name: str, variables: Mapping[str, Any], *, num_samples: int, device: Any = "cpu"
) -> dict[str, torch.nn.Module]:
    """Returns a network as one would write it, and what can be tuned about it.

    Args:
        name: As in `models.MODEL_NAMES`, but for envnet_v2_deep.
        variables: Of the network in Flax.
        num_samples: Of a clip.
        device: Where the weights go.
    """
    if name == "spchcmd":
        twin = spchcmd.twin_of(variables, num_samples=num_samples).to(device)
        return {"plain": twin, "tuned": spchcmd.tuned(twin)}
    twin = environmental.twin_of(name, variables).to(device)
    networks = {"plain": twin}
    if any(isinstance(module, torch.nn.Conv2d) for module in twin.modules()):
        channels_last = copy.deepcopy(twin).to(memory_format=torch.channels_last)
        networks["channels last"] = channels_last
    return networks
