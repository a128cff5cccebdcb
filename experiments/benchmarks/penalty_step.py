"""Times a step of the penalty attack on SpchCMD against PyTorch on the same CPU.

One step is the gradient of SPL(v') + c sum_i G(w_i) over a batch, and Adam. See the
README beside this file.
"""

import math
import statistics
from typing import Any

import harness
import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch_twin
from absl import app, flags, logging
from torch_agreement import check_agreement

from uap_jax import attacks, models
from uap_jax.attacks import loop
from uap_jax.audio.box import to_tanh_space

_NUM_REPEATS = flags.DEFINE_integer(
    "num_repeats", 9, "Timings of each of the two, in turns.", lower_bound=7
)
_NUM_STEPS = flags.DEFINE_integer(
    "num_steps", 5, "Steps that one timing takes.", lower_bound=1
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 100, "Clips of a step.", lower_bound=1)
_TORCH_MICRO_BATCH_SIZE = flags.DEFINE_integer(
    "torch_micro_batch_size",
    25,
    "Clips that PyTorch takes at once, besides the whole batch.",
    lower_bound=1,
)
_TORCH_COMPILE = flags.DEFINE_bool(
    "torch_compile", True, "Whether to try torch.compile as well; takes a minute."
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "Where to write the results, without .json and .md; None: nowhere."
)

NUM_CLASSES = 32
TARGET = 9
NUM_SCOUTING_RUNS = 3


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"expected flags only, got {argv[1:]}")
    machine = harness.use_all_cores()
    spec = models.create("spchcmd", num_classes=NUM_CLASSES)
    num_clips = _NUM_STEPS.value * _BATCH_SIZE.value
    config = loop.resolve_config(
        attacks.PenaltyConfig(batch_size=_BATCH_SIZE.value),
        targeted=True,
        num_clips=num_clips,
    )
    variables = harness.random_variables(spec)
    twin = torch_twin.twin_of(variables, num_samples=spec.num_samples)
    differences = check_agreement(spec, variables, twin, target=TARGET, config=config)

    x = harness.random_clips(num_clips, spec.num_samples, seed=1)
    run_jax = prepare_jax(spec, variables, x, config=config)
    compile_s = harness.seconds_of(run_jax)
    opponents, notes = prepare_torch(twin, x, config=config)
    scouted = {
        name: min(harness.seconds_of(run) for _ in range(NUM_SCOUTING_RUNS))
        for name, run in opponents.items()
    }
    best = min(scouted, key=scouted.__getitem__)
    matmul_flops = [harness.measure_matmul_flops()]
    jax_s, torch_s = [], []
    for _ in range(_NUM_REPEATS.value):
        jax_s.append(harness.seconds_of(run_jax))
        torch_s.append(harness.seconds_of(opponents[best]))
    matmul_flops.append(harness.measure_matmul_flops())
    compile_s -= statistics.median(jax_s)

    to_ms = 1e3 / num_clips
    num_multiply_adds = count_multiply_adds(spec, variables)
    results = {
        "date": harness.today(),
        "machine": machine,
        "versions": harness.versions_of(("jax", "flax", "torch")),
        "settings": {
            "batch_size": config.batch_size,
            "micro_batch_size": config.micro_batch_size,
            "num_samples": spec.num_samples,
            "num_steps": _NUM_STEPS.value,
            "num_repeats": _NUM_REPEATS.value,
        },
        "relative_differences": differences,
        "ms_per_clip": {
            "uap_jax": [second * to_ms for second in jax_s],
            "pytorch": [second * to_ms for second in torch_s],
        },
        "ratios": [b / a for a, b in zip(jax_s, torch_s, strict=True)],
        "uap_jax_compile_s": compile_s,
        "pytorch_variant": best,
        "pytorch_scouted_ms_per_clip": {
            name: second * to_ms for name, second in scouted.items()
        },
        "floor": {
            "multiply_adds_per_clip": num_multiply_adds,
            "matmul_gflops_per_s": max(matmul_flops) / 1e9,
            "ms_per_clip": 2 * num_multiply_adds / max(matmul_flops) * 1e3,
        },
        "notes": notes,
    }
    harness.write_results(results, as_markdown(results), _OUTPUT.value)


def prepare_jax(
    spec: models.Architecture,
    variables: harness.Variables,
    x: np.ndarray,
    *,
    config: attacks.PenaltyConfig,
) -> harness.RunFn:
    """Returns what takes the steps of a pass, from v' = 0 each time."""
    variables = jax.device_put(variables)
    problem, state = attacks.begin(
        spec.logits,
        variables,
        jnp.asarray(x),
        jnp.zeros(len(x), jnp.int32),
        key=jax.random.key(0),
        target=TARGET,
        config=config,
    )

    def run() -> jax.Array:
        after = attacks.advance(
            spec.logits, variables, problem, state, max_steps=_NUM_STEPS.value
        )
        return jax.block_until_ready(problem.method.value(after.own))

    return run


def prepare_torch(
    twin: torch_twin.SpchCMD, x: np.ndarray, *, config: attacks.PenaltyConfig
) -> tuple[dict[str, harness.RunFn], list[str]]:
    """Returns the same in PyTorch by variant, each run once, and what did not work."""
    x_tanh = torch.from_numpy(np.array(to_tanh_space(x)))

    def steps_with(network: torch.nn.Module, micro_batch_size: int) -> harness.RunFn:
        return lambda: torch_twin.penalty_steps(
            network,
            x_tanh,
            num_steps=_NUM_STEPS.value,
            micro_batch_size=micro_batch_size,
            target=TARGET,
            config=config,
        )

    tuned = torch_twin.tuned(twin)
    small, whole = _TORCH_MICRO_BATCH_SIZE.value, config.batch_size
    runs, notes = {}, []
    for name, network in (("plain", twin), ("tuned", tuned)):
        runs[f"{name}, whole batch"] = steps_with(network, whole)
        runs[f"{name}, micro-batches of {small}"] = steps_with(network, small)
    for run in runs.values():
        run()
    if not _TORCH_COMPILE.value:
        return runs, ["torch.compile: not tried"]
    for name, network in (("plain", twin), ("tuned", tuned)):
        run = steps_with(torch.compile(network), small)
        try:
            run()
        # A missing C++ compiler and much else; the others are what counts then.
        except Exception as error:
            notes.append(f"torch.compile, {name}: {type(error).__name__}, left out")
            logging.warning("torch.compile failed: %s", error)
        else:
            runs[f"{name}, compiled, micro-batches of {small}"] = run
    return runs, notes


def count_multiply_adds(spec: models.Architecture, variables: harness.Variables) -> int:
    """Counts those of all matrix products of one clip's logits and input gradient."""

    def run(x: jax.Array, direction: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits, pull_back = jax.vjp(lambda x: spec.logits(variables, x), x)
        return logits, pull_back(direction)[0]

    def count(jaxpr: Any) -> int:
        total = 0
        for equation in jaxpr.eqns:
            if equation.primitive.name == "dot_general":
                (contracted, _), _ = equation.params["dimension_numbers"]
                shape = equation.invars[0].aval.shape
                total += math.prod(shape[axis] for axis in contracted) * math.prod(
                    equation.outvars[0].aval.shape
                )
            for value in equation.params.values():
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    total += count(inner)
        return total

    x = jnp.zeros((1, spec.num_samples))
    return count(jax.make_jaxpr(run)(x, jnp.zeros((1, spec.num_classes))).jaxpr)


def as_markdown(results: dict[str, Any]) -> str:
    settings, floor = results["settings"], results["floor"]
    rows = [
        f"| {name} | {min(values):.3f} | {statistics.median(values):.3f} |"
        for name, values in (
            ("uap_jax", results["ms_per_clip"]["uap_jax"]),
            (
                f"PyTorch ({results['pytorch_variant']})",
                results["ms_per_clip"]["pytorch"],
            ),
        )
    ]
    ratios = results["ratios"]
    scouted = "; ".join(
        f"{name} {value:.3f}"
        for name, value in results["pytorch_scouted_ms_per_clip"].items()
    )
    lines = [
        "# Step of the penalty attack, SpchCMD, float32, targeted",
        "",
        "| ms per clip | min | median |",
        "| --- | --- | --- |",
        *rows,
        f"| floor: the matrix products alone | {floor['ms_per_clip']:.3f} | |",
        "",
        f"- PyTorch / uap_jax, pair by pair: median {statistics.median(ratios):.2f}, "
        f"from {min(ratios):.2f} to {max(ratios):.2f} ({len(ratios)} pairs).",
        f"- Batches of {settings['batch_size']} clips of {settings['num_samples']} "
        f"samples, {settings['num_steps']} steps a timing; uap_jax in micro-batches "
        f"of {settings['micro_batch_size']}.",
        f"- Compiling took uap_jax {results['uap_jax_compile_s']:.1f} s, once; it is "
        "not in the times above.",
        f"- PyTorch's variants, ms per clip, best of {NUM_SCOUTING_RUNS}: {scouted}.",
        f"- The floor: {floor['multiply_adds_per_clip'] / 1e6:.1f} million "
        f"multiply-adds a clip at {floor['matmul_gflops_per_s']:.0f} GFLOP/s.",
        *harness.machine_lines(results),
        *(f"- {note}" for note in results["notes"]),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    app.run(main)
