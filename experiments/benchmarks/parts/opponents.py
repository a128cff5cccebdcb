"""The parts of `accelerator.py` that compare with PyTorch, foolbox and ART.

A part yields its results whenever there are more of them.
"""

import gc
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ddn
import greedy
import harness
import input_gradient
import jax
import numpy as np
import penalty_step
import rates

from uap_jax import attacks
from uap_jax.models import registry
from uap_jax.runs.config import RunConfig

# Samples of clips with --small: little more than the networks need.
SMALL_CLIPS = {
    "spchcmd": 5_081,
    "cnn_rand": 17_438,
    "cnn_gamma": 9_199,
    "envnet_v2": 11_354,
    "sincnet": 3_000,
    "sincnet_vgg19": 7_226,
}
NETWORKS = tuple(SMALL_CLIPS)
ART_ATTACKS = ("fgsm, eps 0.02", "pgd, eps 0.002")


class Settings(NamedTuple):
    """What a part is told."""

    small: bool
    seed: int
    deadline: float  # of `time.monotonic`; measurements begin before it
    folder: Path  # for caches and checkpoints

    def choose(self, full: Any, small: Any) -> Any:
        return small if self.small else full

    def is_over(self) -> bool:
        return time.monotonic() > self.deadline


def time_networks(settings: Settings) -> Iterator[harness.Results]:
    """Times input gradient and penalty step of each network against PyTorch."""
    device = jax.devices()[0]
    results: harness.Results = {"peak": {}, "models": {}, "left_out": {}}
    for precision in rates.precisions(device.device_kind, device.platform):
        with harness.precision(precision):
            results["peak"][precision] = peak = rates.peak(precision)
            found = results["models"][precision] = {}
            for name in NETWORKS:
                if settings.is_over():
                    results["left_out"][f"{name}, {precision}"] = "no time was left"
                    continue
                network = harness.attempt(
                    f"{name}, {precision}",
                    lambda name=name, peak=peak: time_network(name, peak, settings),
                    results["left_out"],
                )
                if network is not None:
                    found[name] = network
                yield results
                free_memory()


def time_network(
    name: str, peak: harness.Results, settings: Settings
) -> harness.Results:
    """Returns times and shares of the peak; the largest batch that fits is taken."""
    sizes = settings.choose((100, 25), (2,))
    num_samples = settings.choose(None, SMALL_CLIPS[name])
    repeats = settings.choose(7, 2)
    num_steps = settings.choose(5, 2)
    for size in sizes:
        inputs = input_gradient.random_inputs(name, size, num_samples)
        gradient = input_gradient.measure(inputs, sizes=[size], num_repeats=repeats)
        if "uap_jax" in gradient["ms_per_clip"]:
            break
    else:
        raise RuntimeError(str(gradient["left_out"]))
    free_memory()
    spec, variables = inputs.spec, inputs.variables
    micro_batch_size = size
    if jax.default_backend() == "cpu":
        micro_batch_size = registry.default_micro_batch_size(name) or size
    config = penalty_step.resolved(
        size, num_clips=num_steps * size, micro_batch_size=micro_batch_size
    )
    x = harness.random_clips(num_steps * size, spec.num_samples, seed=2)
    # The form of the network in PyTorch that was faster for the gradient.
    variant, _, _ = gradient["variants"].get("pytorch", "").partition(",")
    left_out: dict[str, str] = {}
    makers = harness.attempt(
        "PyTorch", lambda: step_makers(inputs, variant, x, config), left_out
    )
    step = penalty_step.measure(
        penalty_step.prepare_jax(spec, variables, x, config=config),
        makers or {},
        num_clips=len(x),
        num_repeats=repeats,
    )
    step["left_out"] |= left_out
    flops = rates.flops_per_clip(spec, variables)
    for found in (gradient, step):
        found["shares_of_peak"] = {
            framework: flops / (statistics.median(ms) / 1e3) / peak["flops"]
            for framework, ms in found["ms_per_clip"].items()
        }
    return {
        "batch_size": size,
        "num_samples": spec.num_samples,
        "flops_per_clip": flops,
        "gradient": gradient,
        "step": step,
    }


def step_makers(
    inputs: input_gradient.Inputs,
    variant: str,
    x: np.ndarray,
    config: attacks.PenaltyConfig,
) -> dict[str, Callable[[], harness.RunFn]]:
    from twins import variants_of

    networks = variants_of(
        inputs.spec.name,
        inputs.variables,
        num_samples=inputs.spec.num_samples,
        device=harness.torch_device(),
    )
    chosen = {variant: networks[variant]} if variant in networks else networks
    return penalty_step.torch_makers(
        chosen, x, config=config, sizes=[config.batch_size]
    )


def compare_toolboxes(settings: Settings) -> Iterator[harness.Results]:
    """Compares DDN with foolbox and the greedy attack with ART."""
    sizes = settings.choose(
        {"num_clips": 100, "num_steps": 50, "num_repeats": 3},
        {"num_clips": 4, "num_steps": 5, "num_repeats": 1}
        | {"num_samples": SMALL_CLIPS["spchcmd"]},
    )
    results: harness.Results = {"left_out": {}}
    results["ddn"] = harness.attempt(
        "ddn", lambda: next(ddn.run(**sizes)), results["left_out"]
    )
    yield results
    attacked = harness.attempt(
        "greedy", lambda: greedy_inputs(settings), results["left_out"]
    )
    if attacked is None:
        return
    for found in greedy.compare(
        *attacked,
        batch_sizes=[8] if not settings.small else [],
        limit_s=settings.choose(20, 3),
        art_attacks=settings.choose(ART_ATTACKS, ART_ATTACKS[:1]),
        num_repeats=0,
        ddn_steps=settings.choose(50, 3),
    ):
        results["greedy"] = found
        yield results


def greedy_inputs(
    settings: Settings,
) -> tuple[Any, jax.Array, jax.Array, harness.Results]:
    """Returns a victim and clips: the built-in ones, or with --small random ones."""
    if not settings.small:
        config = RunConfig(method="greedy", num_attack_clips=200)
        return greedy.prepare_victim(config, settings.folder / "cache")
    inputs = input_gradient.random_inputs("spchcmd", 6, SMALL_CLIPS["spchcmd"])
    classifier = inputs.spec.classifier(jax.device_put(inputs.variables))
    facts = {"name": "random weights", "validation_accuracy": math.nan}
    return classifier, *jax.device_put((inputs.x, np.int32(inputs.labels))), facts


def free_memory() -> None:
    """Gives back what programs and PyTorch keep."""
    jax.clear_caches()
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
