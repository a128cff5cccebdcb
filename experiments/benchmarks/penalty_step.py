"""Times a step of the penalty attack on SpchCMD against PyTorch on the same device.

One step is the gradient of SPL(v') + c sum_i G(w_i) over a batch, and Adam. See the
README beside this file.
"""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import harness
import jax
import jax.numpy as jnp
import numpy as np
import rates

from uap_jax import attacks, models
from uap_jax.attacks import loop
from uap_jax.audio.box import to_tanh_space

NUM_CLASSES = 32
TARGET = 9
NUM_SCOUTING_RUNS = 3


def run(
    num_repeats: Annotated[int, "Timings of each of the two, in turns."] = 9,
    num_steps: Annotated[int, "Steps that one timing takes."] = 5,
    batch_size: Annotated[int, "Clips of a step."] = 100,
    torch_micro_batch_size: Annotated[
        int, "Clips that PyTorch takes at once, besides the whole batch."
    ] = 25,
    torch_compile: Annotated[
        bool, "Whether to try torch.compile as well; takes a minute."
    ] = True,
) -> Iterator[harness.Results]:
    from twins import spchcmd_agreement, variants_of

    results = harness.begin("torch")
    spec = models.create("spchcmd", num_classes=NUM_CLASSES)
    variables = harness.random_variables(spec)
    config = resolved(batch_size, num_clips=num_steps * batch_size)
    networks = variants_of(
        "spchcmd",
        variables,
        num_samples=spec.num_samples,
        device=harness.torch_device(),
    )
    differences = spchcmd_agreement.check_agreement(
        spec, variables, networks["plain"], target=TARGET, config=config
    )
    x = harness.random_clips(num_steps * batch_size, spec.num_samples, seed=1)
    rate = rates.matmul_flops()
    sizes = (config.batch_size, torch_micro_batch_size)
    found = measure(
        prepare_jax(spec, variables, x, config=config),
        torch_makers(networks, x, config=config, sizes=sizes, compiles=torch_compile),
        num_clips=len(x),
        num_repeats=num_repeats,
    )
    rate = max(rate, rates.matmul_flops())
    flops = rates.flops_per_clip(spec, variables)
    yield results | {
        "settings": {
            "batch_size": config.batch_size,
            "micro_batch_size": config.micro_batch_size,
            "num_samples": spec.num_samples,
            "num_steps": num_steps,
            "num_repeats": num_repeats,
        },
        "relative_differences": differences,
        **found,
        "floor": {
            "flops_per_clip": flops,
            "matmul_flops": rate,
            "ms_per_clip": flops / rate * 1e3,
        },
    }


def resolved(
    batch_size: int, *, num_clips: int, micro_batch_size: int | None = None
) -> attacks.PenaltyConfig:
    config = attacks.PenaltyConfig(
        batch_size=batch_size, micro_batch_size=micro_batch_size
    )
    return loop.resolve_config(config, targeted=True, num_clips=num_clips)


def measure(
    ours: harness.RunFn,
    makers: Mapping[str, Callable[[], harness.RunFn]],
    *,
    num_clips: int,
    num_repeats: int,
) -> harness.Results:
    """Returns the times of ours and of the fastest opponent, milliseconds per clip."""
    to_ms = 1e3 / num_clips
    compile_s = harness.seconds_of(ours)
    left_out: dict[str, str] = {}
    runs = {"uap_jax": ours}
    opponents, _ = harness.prepared(makers, left_out)
    found: harness.Results = {"left_out": left_out}
    if opponents:
        best, scouted = harness.fastest(opponents, num_runs=NUM_SCOUTING_RUNS)
        runs["pytorch"] = opponents[best]
        found["pytorch_variant"] = best
        found["pytorch_scouted_ms_per_clip"] = {
            n: s * to_ms for n, s in scouted.items()
        }
    seconds = harness.in_turns(runs, num_repeats)
    compile_s -= statistics.median(seconds["uap_jax"])
    found["uap_jax_compile_s"] = compile_s
    found["ms_per_clip"] = {n: [s * to_ms for s in v] for n, v in seconds.items()}
    if opponents:
        found["ratios"] = harness.ratios(seconds["pytorch"], seconds["uap_jax"])
    return found


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
    num_steps = len(x) // config.batch_size

    def run() -> jax.Array:
        after = attacks.advance(
            spec.logits, variables, problem, state, max_steps=num_steps
        )
        return problem.method.value(after.own)

    return run


def torch_makers(
    networks: Mapping[str, Any],
    x: np.ndarray,
    *,
    config: attacks.PenaltyConfig,
    sizes: Sequence[int],
    compiles: bool = False,
) -> dict[str, Callable[[], harness.RunFn]]:
    """Returns the same in PyTorch by variant; the last size is that of torch.compile.

    That may not work, for want of a C++ compiler and for much else.
    """
    import torch
    from twins import spchcmd

    x_tanh = torch.from_numpy(np.array(to_tanh_space(x))).to(harness.torch_device())

    def make(network: Any, size: int) -> harness.RunFn:
        return lambda: spchcmd.penalty_steps(
            network,
            x_tanh,
            num_steps=len(x) // config.batch_size,
            micro_batch_size=size,
            target=TARGET,
            config=config,
        )

    makers = {
        f"{name}, micro-batches of {size}": lambda n=network, s=size: make(n, s)
        for name, network in networks.items()
        for size in sizes
    }
    if compiles:
        makers |= {
            f"{name}, compiled": lambda n=network: make(torch.compile(n), sizes[-1])
            for name, network in networks.items()
        }
    return makers


def as_markdown(results: harness.Results) -> str:
    settings, floor = results["settings"], results["floor"]
    names = {
        "uap_jax": "uap_jax",
        "pytorch": f"PyTorch ({results.get('pytorch_variant')})",
    }
    rows = [
        f"| {names[name]} | {min(values):.3f} | {statistics.median(values):.3f} |"
        for name, values in results["ms_per_clip"].items()
    ]
    ratios = results.get("ratios", [float("nan")])
    scouted = "; ".join(
        f"{name} {value:.3f}"
        for name, value in results.get("pytorch_scouted_ms_per_clip", {}).items()
    )
    lines = [
        "# Step of the penalty attack, SpchCMD, float32, targeted",
        "",
        "| ms per clip | min | median |",
        "| --- | --- | --- |",
        *rows,
        f"| floor: the network's operations alone | {floor['ms_per_clip']:.3f} | |",
        "",
        f"- PyTorch / uap_jax, pair by pair: median {statistics.median(ratios):.2f}, "
        f"from {min(ratios):.2f} to {max(ratios):.2f} ({len(ratios)} pairs).",
        f"- Batches of {settings['batch_size']} clips of {settings['num_samples']} "
        f"samples, {settings['num_steps']} steps a timing; uap_jax in micro-batches "
        f"of {settings['micro_batch_size']}.",
        f"- Compiling took uap_jax {results['uap_jax_compile_s']:.1f} s, once; it is "
        "not in the times above.",
        f"- PyTorch's variants, ms per clip, best of {NUM_SCOUTING_RUNS}: {scouted}.",
        f"- The floor: {floor['flops_per_clip'] / 1e6:.0f} million operations a clip "
        f"at {floor['matmul_flops'] / 1e9:.0f} GFLOP/s, the rate of a large matrix "
        "product.",
        *harness.machine_lines(results),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    harness.launch(run, as_markdown)
