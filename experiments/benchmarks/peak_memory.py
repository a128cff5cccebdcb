"""Measures the peak memory of an attack with the paper's batch of 100 clips.

Each network runs in a process of its own, with random weights and random clips: one
pass of the penalty method, and DDN on one clip and the evaluation of greedy. See the
README beside this file.
"""

import dataclasses
import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import harness
import jax
import jax.numpy as jnp
import numpy as np

from uap_jax import attacks
from uap_jax.models import create, registry

NUM_CLIPS = 100
NUM_CLASSES = 10


def run(
    models: Annotated[Sequence[str], "Networks."] = registry.MODEL_NAMES,
    methods: Annotated[Sequence[str], "Attacks."] = ("penalty", "greedy"),
    child: Annotated[str | None, "METHOD,MODEL to run in this process."] = None,
) -> Iterator[harness.Results]:
    if child:
        attack(*child.split(","))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return
    results = harness.begin() | {
        "settings": {
            "num_clips": NUM_CLIPS,
            "batch_size": NUM_CLIPS,
            "methods": methods,
        },
        "peak_gb": {},
    }
    for model in models:
        results["peak_gb"][model] = {
            method: peak_gb(method, model) for method in methods
        }
        yield results


def peak_gb(method: str, model: str) -> float:
    """Returns the largest resident memory of a process that attacks, in GB."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__)), f"--child={method},{model}"],
        check=True,
        stdout=subprocess.PIPE,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        text=True,
    )
    return int(done.stdout.split()[-1]) * 1024 / 1e9


def attack(method: str, model: str) -> None:
    """One pass of an attack on random clips."""
    spec = create(model, num_classes=NUM_CLASSES)
    variables = spec.init(jax.random.key(0))
    x = jnp.asarray(harness.random_clips(NUM_CLIPS, spec.num_samples, seed=0))
    labels = jnp.asarray(np.arange(NUM_CLIPS) % NUM_CLASSES, jnp.int32)
    config: Any
    if method == "penalty":
        config = attacks.PenaltyConfig(
            batch_size=NUM_CLIPS,
            max_passes=1,
            micro_batch_size=registry.default_micro_batch_size(model),
        )
    else:
        # The first clip alone has a DDN; what follows it needs no more.
        config = attacks.GreedyConfig(
            max_passes=1, radius=1.0, ddn=attacks.DDNConfig(num_steps=2, init_norm=50.0)
        )
    run = getattr(attacks, method)
    run(
        spec.logits,
        variables,
        x,
        labels,
        key=jax.random.key(0),
        config=dataclasses.replace(config, target_asr=0.01),
    )


def as_markdown(results: harness.Results) -> str:
    methods = results["settings"]["methods"]
    rows = [
        f"| {model} | " + " | ".join(f"{found[m]:.2f}" for m in methods) + " |"
        for model, found in results["peak_gb"].items()
    ]
    lines = [
        "# Peak memory of an attack, GB",
        "",
        f"| network | {' | '.join(methods)} |",
        "| --- " * (len(methods) + 1) + "|",
        *rows,
        "",
        f"- {NUM_CLIPS} clips of the paper's length in one batch; the resident memory "
        "of the whole process at its highest, JAX, weights and clips included.",
        *harness.machine_lines(results),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    harness.launch(run, as_markdown)
