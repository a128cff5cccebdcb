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
from pathlib import Path
from typing import Any

import harness
import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from uap_jax import attacks, models

NUM_CLIPS = 100
NUM_CLASSES = 10

_MODELS = flags.DEFINE_list("models", list(models.MODEL_NAMES), "Networks.")
_METHODS = flags.DEFINE_list("methods", ["penalty", "greedy"], "Attacks.")
_OUTPUT = flags.DEFINE_string(
    "output", None, "Where to write the results, without .json and .md; None: nowhere."
)
_CHILD = flags.DEFINE_string("child", None, "METHOD,MODEL to run in this process.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"expected flags only, got {argv[1:]}")
    if _CHILD.value:
        attack(*_CHILD.value.split(","))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return
    results: dict[str, Any] = {
        "date": harness.today(),
        "machine": harness.use_all_cores(),
        "versions": harness.versions_of(("jax", "flax")),
        "settings": {"num_clips": NUM_CLIPS, "batch_size": NUM_CLIPS},
        "peak_gb": {},
    }
    for model in _MODELS.value:
        results["peak_gb"][model] = {
            method: peak_gb(method, model) for method in _METHODS.value
        }
        harness.write_results(results, as_markdown(results), _OUTPUT.value)


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
    spec = models.create(model, num_classes=NUM_CLASSES)
    variables = spec.init(jax.random.key(0))
    x = jnp.asarray(harness.random_clips(NUM_CLIPS, spec.num_samples, seed=0))
    labels = jnp.asarray(np.arange(NUM_CLIPS) % NUM_CLASSES, jnp.int32)
    config: Any
    if method == "penalty":
        config = attacks.PenaltyConfig(
            batch_size=NUM_CLIPS,
            max_passes=1,
            micro_batch_size=models.registry.default_micro_batch_size(model),
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


def as_markdown(results: dict[str, Any]) -> str:
    methods = _METHODS.value
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
    app.run(main)
