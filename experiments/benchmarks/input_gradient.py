"""Times the input gradient of the networks against PyTorch, with random weights.

See the README beside this file.
"""

import gc
import statistics
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Annotated, Any, NamedTuple

import harness
import jax
import numpy as np
from absl import app, logging

from uap_jax.models import Architecture, create, kernels

# So many that a timing takes about a second.
CLIPS_PER_TIMING = {
    "spchcmd": 500,
    "cnn_rand": 50,
    "cnn_gamma": 8,
    "envnet_v2": 25,
    "sincnet": 8,
    "sincnet_vgg19": 2,
}
ENVIRONMENTAL = tuple(CLIPS_PER_TIMING)[1:]
SIZES = ("1", "2", "4", "8", "16", "25")
NUM_CLASSES = 10
NUM_SCOUTING_RUNS = 2
NUM_PLAIN_REPEATS = 3


class Inputs(NamedTuple):
    """A network with random weights, and random clips and labels."""

    spec: Architecture
    variables: harness.Variables
    x: np.ndarray
    labels: np.ndarray


class Timed(NamedTuple):
    """What is timed, how many clips it takes, and how long its compiling took."""

    run: harness.RunFn
    num_clips: int
    compile_s: float = 0.0


def run(
    models: Annotated[Sequence[str], "Networks, in this order."] = ENVIRONMENTAL,
    clips_per_timing: Annotated[int | None, "Clips; None: by network."] = None,
    micro_batch_sizes: Annotated[
        Sequence[str], "Clips taken at once; the fastest for each of the two is kept."
    ] = SIZES,
    plain: Annotated[
        Sequence[str], "Networks whose plain form is timed as well."
    ] = ENVIRONMENTAL[:-1],
    num_repeats: Annotated[int, "Timings of each of the two, in turns."] = 9,
) -> Iterator[harness.Results]:
    unknown = {*models, *plain} - set(CLIPS_PER_TIMING)
    if unknown:
        raise app.UsageError(f"expected networks of {[*CLIPS_PER_TIMING]}: {unknown}")
    results = harness.begin("torch") | {
        "settings": {
            "num_classes": NUM_CLASSES,
            "num_repeats": num_repeats,
            "micro_batch_sizes": micro_batch_sizes,
        },
        "models": {},
    }
    for name in models:
        num_clips = clips_per_timing or CLIPS_PER_TIMING[name]
        inputs = random_inputs(name, num_clips)
        differences = check_agreement(inputs)
        logging.info("%s: relative differences %s", name, differences)
        sizes = [int(size) for size in micro_batch_sizes if int(size) <= num_clips]
        results["models"][name] = {"relative_differences": differences} | measure(
            inputs,
            sizes=sizes or [num_clips],
            num_repeats=num_repeats,
            plain=name in plain,
        )
        yield results
        jax.clear_caches()
        gc.collect()


def random_inputs(name: str, num_clips: int, num_samples: int | None = None) -> Inputs:
    spec = create(name, num_classes=NUM_CLASSES, num_samples=num_samples)
    return Inputs(
        spec,
        harness.random_variables(spec),
        harness.random_clips(num_clips, spec.num_samples, seed=1),
        np.random.default_rng(1).integers(0, NUM_CLASSES, num_clips),
    )


def check_agreement(inputs: Inputs) -> dict[str, float]:
    from twins import environmental_agreement, variants_of

    spec, variables = inputs.spec, inputs.variables
    twin = variants_of(spec.name, variables, num_samples=spec.num_samples)["plain"]
    return environmental_agreement.check_agreement(spec, variables, twin)


def measure(
    inputs: Inputs, *, sizes: Sequence[int], num_repeats: int, plain: bool = False
) -> harness.Results:
    """Returns what is found out about one network."""
    left_out: dict[str, str] = {}
    makers: dict[str, dict[str, Callable[[], Timed]]] = {
        "uap_jax": jax_makers(inputs, sizes, kernels.ops())
    }
    torch_forms = harness.attempt(
        "PyTorch", lambda: torch_makers(inputs, sizes), left_out
    )
    if torch_forms:
        makers["pytorch"] = torch_forms
    best, variants, scouted = {}, {}, {}
    for framework, forms in makers.items():
        timed = scout(forms, left_out)
        if timed is not None:
            best[framework], variants[framework], scouted[framework] = timed
    seconds = harness.in_turns({n: timed.run for n, timed in best.items()}, num_repeats)
    ms = {
        n: [s / best[n].num_clips * 1e3 for s in values]
        for n, values in seconds.items()
    }
    found: harness.Results = {
        "num_clips": {name: timed.num_clips for name, timed in best.items()},
        "num_samples": inputs.spec.num_samples,
        "ms_per_clip": ms,
        "variants": variants,
        "scouted_ms_per_clip": scouted,
        "left_out": left_out,
    }
    if "uap_jax" in best:
        found["compile_s"] = best["uap_jax"].compile_s
    if len(best) == 2:
        found["ratios"] = harness.ratios(ms["pytorch"], ms["uap_jax"])
        found["gradients_differ_by"] = difference(
            *(timed.run() for timed in best.values())
        )
    if plain:
        timed = scout(jax_makers(inputs, sizes, kernels.plain), left_out)
        if timed is not None:
            form, variant, scouted = timed
            repeats = harness.in_turns({"": form.run}, NUM_PLAIN_REPEATS)[""]
            found["plain"] = {
                "ms_per_clip": [s / form.num_clips * 1e3 for s in repeats],
                "variant": variant,
                "scouted_ms_per_clip": scouted,
                "compile_s": form.compile_s,
            }
    return found


def jax_makers(
    inputs: Inputs, sizes: Sequence[int], form: ModuleType
) -> dict[str, Callable[[], Timed]]:
    """Returns what takes the gradients, compiled when it is called, by micro-batch."""
    spec, variables, x, labels = inputs
    gradient_of = jax.grad(harness.loss_of(spec, form), has_aux=True)

    @jax.jit
    def gradients(
        variables: harness.Variables, clips: jax.Array, labels: jax.Array
    ) -> jax.Array:
        return jax.lax.map(
            lambda batch: gradient_of(batch[0], variables, batch[1])[0], (clips, labels)
        )

    def make(size: int) -> Timed:
        num_clips = len(x) // size * size
        arguments = jax.device_put(
            (
                variables,
                x[:num_clips].reshape(-1, size, x.shape[1]),
                labels[:num_clips].reshape(-1, size).astype(np.int32),
            )
        )
        compiled = []
        compile_s = harness.seconds_of(
            lambda: compiled.append(gradients.lower(*arguments).compile())
        )
        return Timed(lambda: compiled[0](*arguments), num_clips, compile_s)

    return {f"micro-batches of {n}": lambda n=n: make(n) for n in sizes}


def torch_makers(
    inputs: Inputs, sizes: Sequence[int]
) -> dict[str, Callable[[], Timed]]:
    """Returns the same in PyTorch by variant."""
    import torch
    from torch.nn import functional
    from twins import variants_of

    spec, variables, x, labels = inputs
    device = harness.torch_device()
    networks = variants_of(
        spec.name, variables, num_samples=spec.num_samples, device=device
    )

    def make(network: torch.nn.Module, size: int) -> Timed:
        num_clips = len(x) // size * size
        clips = torch.from_numpy(x[:num_clips]).to(device).split(size)
        classes = torch.from_numpy(labels[:num_clips]).to(device).split(size)

        def gradient_of(batch: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
            batch = batch.detach().requires_grad_()
            loss = functional.cross_entropy(network(batch), classes, reduction="sum")
            return torch.autograd.grad(loss, batch)[0]

        return Timed(
            lambda: torch.cat(list(map(gradient_of, clips, classes))), num_clips
        )

    return {
        f"{variant}, micro-batches of {size}": lambda n=network, s=size: make(n, s)
        for variant, network in networks.items()
        for size in sizes
    }


def scout(
    makers: dict[str, Callable[[], Timed]], left_out: dict[str, str]
) -> tuple[Timed, str, dict[str, float]] | None:
    """Returns the fastest form, its name, and the best milliseconds per clip of all."""
    forms, ms = {}, {}

    def first(make: Callable[[], Timed]) -> tuple[Timed, float]:
        timed = make()
        harness.wait_for(timed.run())
        _, seconds = harness.fastest({"": timed.run}, num_runs=NUM_SCOUTING_RUNS)
        return timed, seconds[""] / timed.num_clips * 1e3

    for name, make in makers.items():
        outcome = harness.attempt(name, lambda make=make: first(make), left_out)
        if outcome is not None:
            forms[name], ms[name] = outcome
    if not forms:
        return None
    best = min(ms, key=ms.__getitem__)
    return forms[best], best, ms


def difference(ours: jax.Array, theirs: Any) -> float:
    """The median over clips of the gradients' relative difference."""
    mine = np.asarray(ours).reshape(-1, ours.shape[-1])
    other = theirs.cpu().numpy()
    num_clips = min(len(mine), len(other))
    norms = np.linalg.norm(mine[:num_clips], axis=1)
    by_clip = np.linalg.norm(mine[:num_clips] - other[:num_clips], axis=1) / norms
    return float(np.median(by_clip))


def as_markdown(results: harness.Results) -> str:
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
        "# Input gradient of the networks, float32",
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
    harness.launch(run, as_markdown)
