"""Times the input gradient of the networks for environmental sounds against PyTorch.

On the same CPU, with random weights. See the README beside this file.
"""

import copy
import gc
import statistics
import types
from typing import Any

import harness
import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch_environmental
from absl import app, flags, logging
from environmental_agreement import (
    MODULES,
    NUM_CLASSES,
    check_agreement,
    loss_of,
    random_variables,
)
from torch.nn import functional

from uap_jax import models
from uap_jax.models import kernels

# So many that a timing takes about a second.
CLIPS_PER_TIMING = {
    "cnn_rand": 50,
    "cnn_gamma": 8,
    "envnet_v2": 25,
    "sincnet": 8,
    "sincnet_vgg19": 2,
}

_MODELS = flags.DEFINE_list("models", list(MODULES), "Networks, in this order.")
_CLIPS_PER_TIMING = flags.DEFINE_integer(
    "clips_per_timing", None, "Clips; None: by network.", lower_bound=1
)
_MICRO_BATCH_SIZES = flags.DEFINE_list(
    "micro_batch_sizes",
    ["1", "2", "4", "8", "16", "25"],
    "Clips taken at once; the fastest for each of the two is kept.",
)
_PLAIN = flags.DEFINE_list(
    "plain",
    ["cnn_rand", "cnn_gamma", "envnet_v2", "sincnet"],
    "Networks whose plain form is timed as well.",
)
_NUM_REPEATS = flags.DEFINE_integer(
    "num_repeats", 9, "Timings of each of the two, in turns.", lower_bound=1
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "Where to write the results, without .json and .md; None: nowhere."
)

NUM_SCOUTING_RUNS = 2
NUM_PLAIN_REPEATS = 3
# What is timed, how many clips it takes and how many seconds its compiling took.
Run = tuple[harness.RunFn, int, float]


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"expected flags only, got {argv[1:]}")
    unknown = {*_MODELS.value, *_PLAIN.value} - set(MODULES)
    if unknown:
        raise app.UsageError(f"expected networks of {list(MODULES)}, got {unknown}")
    results: dict[str, Any] = {
        "date": harness.today(),
        "machine": harness.use_all_cores(),
        "versions": harness.versions_of(("jax", "flax", "torch")),
        "settings": {
            "num_classes": NUM_CLASSES,
            "num_repeats": _NUM_REPEATS.value,
            "micro_batch_sizes": _MICRO_BATCH_SIZES.value,
        },
        "models": {},
    }
    for name in _MODELS.value:
        results["models"][name] = measure(name)
        # After each, so that a run that ends early leaves what it has.
        harness.write_results(results, as_markdown(results), _OUTPUT.value)
        jax.clear_caches()
        gc.collect()


def measure(name: str) -> dict[str, Any]:
    """Returns what is found out about one network."""
    spec = models.create(name, num_classes=NUM_CLASSES)
    variables = random_variables(name)
    twin = torch_environmental.twin_of(name, variables)
    differences = check_agreement(name, variables, twin, spec.num_samples)
    logging.info("%s: relative differences %s", name, differences)

    num_clips = _CLIPS_PER_TIMING.value or CLIPS_PER_TIMING[name]
    listed = map(int, _MICRO_BATCH_SIZES.value)
    sizes = [size for size in listed if size <= num_clips] or [num_clips]
    x = harness.random_clips(num_clips, spec.num_samples, seed=1)
    labels = np.random.default_rng(1).integers(0, NUM_CLASSES, num_clips)
    runs = prepare_jax(name, variables, x, labels, sizes=sizes, form=kernels.ops())
    scouted, best = scout(runs)
    runs_torch = prepare_torch(twin, x, labels, sizes=sizes)
    scouted_torch, best_torch = scout(runs_torch)
    run_jax, num_jax, compile_s = runs[best]
    run_torch, num_torch, _ = runs_torch[best_torch]
    ms, ms_torch = [], []
    for _ in range(_NUM_REPEATS.value):
        ms.append(harness.seconds_of(run_jax) / num_jax * 1e3)
        ms_torch.append(harness.seconds_of(run_torch) / num_torch * 1e3)
    found = {
        "num_clips": {"uap_jax": num_jax, "pytorch": num_torch},
        "num_samples": spec.num_samples,
        "relative_differences": differences,
        "ms_per_clip": {"uap_jax": ms, "pytorch": ms_torch},
        "ratios": [b / a for a, b in zip(ms, ms_torch, strict=True)],
        "variants": {"uap_jax": best, "pytorch": best_torch},
        "scouted_ms_per_clip": {"uap_jax": scouted, "pytorch": scouted_torch},
        "compile_s": compile_s,
    }
    if name in _PLAIN.value:
        runs = prepare_jax(name, variables, x, labels, sizes=sizes, form=kernels.plain)
        scouted, best = scout(runs)
        run, num, compile_s = runs[best]
        found["plain"] = {
            "ms_per_clip": [
                harness.seconds_of(run) / num * 1e3 for _ in range(NUM_PLAIN_REPEATS)
            ],
            "variant": best,
            "scouted_ms_per_clip": scouted,
            "compile_s": compile_s,
        }
    return found


def prepare_jax(
    name: str,
    variables: harness.Variables,
    x: np.ndarray,
    labels: np.ndarray,
    *,
    sizes: list[int],
    form: types.ModuleType,
) -> dict[str, Run]:
    """Returns what takes the gradients, compiled, by micro-batch."""
    variables = jax.device_put(variables)
    gradient_of = jax.grad(loss_of(name, form), has_aux=True)

    @jax.jit
    def gradients(
        variables: harness.Variables, clips: jax.Array, labels: jax.Array
    ) -> jax.Array:
        return jax.lax.map(
            lambda batch: gradient_of(batch[0], variables, batch[1])[0], (clips, labels)
        )

    def prepared(size: int) -> Run:
        num_clips = len(x) // size * size
        clips = jnp.asarray(x[:num_clips].reshape(-1, size, x.shape[1]))
        classes = jnp.asarray(labels[:num_clips].reshape(-1, size), jnp.int32)
        compiled = []
        compile_s = harness.seconds_of(
            lambda: compiled.append(
                gradients.lower(variables, clips, classes).compile()
            )
        )

        def run() -> jax.Array:
            return jax.block_until_ready(compiled[0](variables, clips, classes))

        return run, num_clips, compile_s

    return {f"micro-batches of {size}": prepared(size) for size in sizes}


def prepare_torch(
    twin: torch.nn.Module, x: np.ndarray, labels: np.ndarray, *, sizes: list[int]
) -> dict[str, Run]:
    """Returns the same in PyTorch by variant; two-dimensional networks have two."""
    networks = {"": twin}
    if any(isinstance(module, torch.nn.Conv2d) for module in twin.modules()):
        channels_last = copy.deepcopy(twin).to(memory_format=torch.channels_last)
        networks["channels last, "] = channels_last

    def prepared(network: torch.nn.Module, size: int) -> Run:
        num_clips = len(x) // size * size
        clips = torch.from_numpy(x[:num_clips]).split(size)
        classes = torch.from_numpy(labels[:num_clips]).split(size)

        def gradient_of(batch: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
            batch = batch.detach().requires_grad_()
            loss = functional.cross_entropy(network(batch), classes, reduction="sum")
            return torch.autograd.grad(loss, batch)[0]

        def run() -> torch.Tensor:
            return torch.cat(list(map(gradient_of, clips, classes)))

        return run, num_clips, 0.0

    return {
        f"{variant}micro-batches of {size}": prepared(network, size)
        for variant, network in networks.items()
        for size in sizes
    }


def scout(runs: dict[str, Run]) -> tuple[dict[str, float], str]:
    """Returns the best milliseconds per clip of a few runs each, and the fastest."""
    scouted = {}
    for name, (run, num_clips, _) in runs.items():
        run()
        seconds = min(harness.seconds_of(run) for _ in range(NUM_SCOUTING_RUNS))
        scouted[name] = seconds / num_clips * 1e3
    return scouted, min(scouted, key=scouted.__getitem__)


def as_markdown(results: dict[str, Any]) -> str:
    rows, notes = [], []
    for name, found in results["models"].items():
        ms, ratios, variants = found["ms_per_clip"], found["ratios"], found["variants"]
        plain = found.get("plain")
        plain_ms = f"{statistics.median(plain['ms_per_clip']):.1f}" if plain else ""
        rows.append(
            f"| {name} | {statistics.median(ms['uap_jax']):.2f} | "
            f"{statistics.median(ms['pytorch']):.2f} | "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) "
            f"| {variants['uap_jax']} | {variants['pytorch']} | "
            f"{found['compile_s']:.1f} | {plain_ms} |"
        )
        tried = dict(found["scouted_ms_per_clip"])
        if plain:
            tried["plain form"] = plain["scouted_ms_per_clip"]
        for framework, scouted in tried.items():
            values = "; ".join(f"{what} {ms:.2f}" for what, ms in scouted.items())
            notes.append(f"- {name}, {framework}: {values}.")
    lines = [
        "# Input gradient of the networks for environmental sounds, float32",
        "",
        "| ms per clip | uap_jax | PyTorch | PyTorch / uap_jax | uap_jax takes | "
        "PyTorch takes | compile, s | plain form |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *rows,
        "",
        f"- Medians of {results['settings']['num_repeats']} pairs of timings; the "
        "ratio is taken pair by pair (median, smallest, largest).",
        "- Compiling is done once and not in the times.",
        *harness.machine_lines(results),
        "",
        f"The first round, ms per clip, best of {NUM_SCOUTING_RUNS}:",
        "",
        *notes,
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    app.run(main)
