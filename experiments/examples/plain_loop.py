"""The penalty attack as one would write it in PyTorch, to time the bridge against."""

import math

import torch
from torch import Tensor, nn

from uap_jax.attacks import PenaltyConfig
from uap_jax.audio.levels import SILENCE_DB


def penalty(
    network: nn.Module,
    x_tanh: Tensor,
    *,
    target: int,
    num_passes: int,
    micro_batch_size: int,
    config: PenaltyConfig,
    seed: int,
) -> tuple[Tensor, float]:
    """Takes passes of the targeted attack over clips in random batches.

    Args:
        network: Waveforms `[B, N]` to logits, in evaluation mode, weights frozen.
        x_tanh: `[M, N]` clips in tanh space.
        target: The class to say.
        num_passes: Passes; after each, the success rate on all clips is taken.
        micro_batch_size: Clips whose gradient is taken at once.
        config: Resolved settings.
        seed: Of the batches.

    Returns:
        v' `[N]` and the success rate.
    """
    generator = torch.Generator().manual_seed(seed)
    value = torch.zeros(x_tanh.shape[1], requires_grad=True)
    optimizer = torch.optim.Adam([value], lr=config.learning_rate)
    asr = 0.0
    for _ in range(num_passes):
        order = torch.randperm(len(x_tanh), generator=generator)
        for batch in order.split(config.batch_size):
            optimizer.zero_grad()
            for index in batch.split(micro_batch_size):
                logits = network(torch.tanh(x_tanh[index] + value))
                hinges = hinge_sum(logits, target, confidence=config.confidence)
                (config.penalty_coefficient * hinges).backward()
            spl_db(value).backward()
            optimizer.step()
        with torch.no_grad():
            fooled = [
                network(torch.tanh(block + value)).argmax(1) == target
                for block in x_tanh.split(micro_batch_size)
            ]
        asr = torch.cat(fooled).float().mean().item()
    return value.detach(), asr


def hinge_sum(logits: Tensor, target: int, *, confidence: float) -> Tensor:
    """Eq. 10, summed over the clips."""
    is_target = torch.arange(logits.shape[1]) == target
    margin = logits.masked_fill(is_target, -math.inf).amax(1) - logits[:, target]
    return margin.clamp(min=-confidence).sum()


def spl_db(value: Tensor) -> Tensor:
    floor = 10 ** (SILENCE_DB / 10)
    return 10 * torch.log10(value.square().mean().clamp(min=floor))
