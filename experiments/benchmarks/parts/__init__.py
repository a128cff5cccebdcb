"""The parts of `accelerator.py`; each runs in a process of its own.

A part yields its results whenever there are more of them.
"""

import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import harness
import jax
import jax.numpy as jnp
import numpy as np
import training_epoch

from parts.opponents import (
    SMALL_CLIPS,
    Settings,
    compare_toolboxes,
    time_networks,
)
from uap_jax import attacks, models
from uap_jax.audio.box import to_box
from uap_jax.data.dataset import split_clips, to_waveform
from uap_jax.data.synthetic.urban import load_synthetic_urban
from uap_jax.runs.config import RunConfig
from uap_jax.runs.resolve import resolve
from uap_jax.training.loop import train

README_COMMAND = ("--method=penalty", "--model=spchcmd")
SMALL_README = ("--num_attack_clips=50", "--num_test_clips=64", "--set=max_passes=2")
WIDTHS = (1, 8, 32)
NUM_TRAINING_EPOCHS = 4


def run_readme(settings: Settings) -> Iterator[harness.Results]:
    """Runs the README's first command with empty caches."""
    arguments = (*README_COMMAND, *settings.choose((), SMALL_README))
    module = ("-m", "uap_jax.experiments.run")
    workdir = settings.folder / "readme"
    # As a person has it.
    environment = dict(os.environ)
    environment.pop("XLA_PYTHON_CLIENT_PREALLOCATE", None)
    started = time.perf_counter()
    subprocess.run(
        [
            *(sys.executable, *module, *arguments, f"--workdir={workdir}"),
            f"--cache_dir={settings.folder / 'cache'}",
        ],
        check=True,
        env=environment,
    )
    wall_s = time.perf_counter() - started
    result = json.loads((workdir / "result.json").read_text())
    names = ("clean_accuracy", "num_passes", "test", "control", "seconds")
    yield {
        "command": " ".join(("python", *module, *arguments)),
        "wall_s": wall_s,
        "train_asr": result["train"]["asr"],
        **{name: result[name] for name in names},
    }


def attack_targets(settings: Settings) -> Iterator[harness.Results]:
    """Attacks SpchCMD towards 1, 8 and 32 targets in one program."""
    num_samples = settings.choose(None, SMALL_CLIPS["spchcmd"])
    spec = models.create("spchcmd", num_classes=max(WIDTHS), num_samples=num_samples)
    variables = jax.device_put(harness.random_variables(spec, seed=settings.seed))
    results: harness.Results = {"num_samples": spec.num_samples, "left_out": {}}
    # What a pass costs does not depend on weights for penalty; for greedy it does.
    for method, num_clips, overrides, widths in (
        ("penalty", settings.choose(3000, 8), (), WIDTHS),
        (
            "greedy",
            settings.choose(100, 4),
            settings.choose((), ("ddn.num_steps=3",)),
            settings.choose(WIDTHS, WIDTHS[:1]),
        ),
    ):
        config = resolve(
            RunConfig(
                method=method,
                model="spchcmd",
                preset="paper",
                target="yes",
                num_attack_clips=num_clips,
                overrides=overrides,
            )
        ).attack
        config = dataclasses.replace(config, max_passes=1, target_asr=1.0)
        found = results[method] = {"num_clips": num_clips, "widths": {}}
        for width in widths:
            if settings.is_over():
                results["left_out"][f"{method}, {width}"] = "no time was left"
                continue
            x = harness.random_clips(num_clips, spec.num_samples, seed=settings.seed)
            measured = harness.attempt(
                f"{method}, {width}",
                lambda width=width, x=x, config=config: time_together(
                    spec, variables, x, config, width, settings
                ),
                results["left_out"],
            )
            if measured is not None:
                found["widths"][width] = measured
            yield results


def time_together(
    spec: models.Architecture,
    variables: harness.Variables,
    x: np.ndarray,
    config: Any,
    width: int,
    settings: Settings,
) -> harness.Results:
    """Returns seconds and memory of one pass for each target."""
    problems, first = attacks.begin_together(
        spec.logits,
        variables,
        jnp.asarray(x),
        jnp.zeros(len(x), jnp.int32),
        keys=jax.random.split(jax.random.key(settings.seed), width),
        targets=range(width),
        configs=config,
    )

    def run() -> Any:
        states = first
        while any(attacks.is_running(state) for state in states):
            states = attacks.advance_together(
                spec.logits, variables, problems, states, width=width
            )
        return states

    first_s = harness.seconds_of(run)
    seconds = harness.in_turns({"": run}, settings.choose(3, 1))[""]
    return {
        "seconds": seconds,
        "compile_s": first_s - statistics.median(seconds),
        # Of the process so far, and each width needs more than the one before it.
        **peak_memory(),
    }


def attack_sincnet_vgg19(settings: Settings) -> Iterator[harness.Results]:
    """Attacks the largest network with the paper's settings on the built-in corpus."""
    config = resolve(RunConfig(method="penalty", model="sincnet_vgg19", preset="paper"))
    dataset = load_synthetic_urban(cache_dir=settings.folder / "cache" / "corpora")
    splits = split_clips(dataset)
    num_clips = min(settings.choose(config.num_attack_clips, 6), len(splits.train))
    rng = np.random.default_rng(settings.seed)
    chosen = np.sort(rng.choice(splits.train, num_clips, replace=False))
    num_samples = settings.choose(dataset.num_samples, SMALL_CLIPS["sincnet_vgg19"])
    started = time.perf_counter()
    dataset.ensure(chosen)
    results: harness.Results = {"corpus_s": time.perf_counter() - started}
    attack = config.attack
    spec = models.create(
        "sincnet_vgg19", num_classes=len(dataset.class_names), num_samples=num_samples
    )
    if settings.small:
        attack = dataclasses.replace(attack, max_passes=1)
        variables = jax.device_put(harness.random_variables(spec))
        results["weights"] = "random, untrained"
    else:
        trained = train(
            spec,
            dataset,
            splits,
            scaling=config.scaling,
            recipe=config.training,
            seed=settings.seed,
            workdir=settings.folder / "sincnet_vgg19",
        )
        variables = trained.variables
        results |= {
            "train_s": trained.seconds,
            "weights": f"trained for {trained.num_epochs} epoch of "
            f"{len(splits.train)} clips, validation accuracy "
            f"{trained.validation_accuracy:.3f}",
        }
    clips = to_waveform(dataset.clips[chosen][:, :num_samples])
    x, _ = to_box(jnp.asarray(clips), scaling=config.scaling)
    problem, state = attacks.begin(
        spec.logits,
        variables,
        x,
        jnp.asarray(dataset.labels[chosen], jnp.int32),
        key=jax.random.key(settings.seed),
        config=attack,
    )

    def advance(state: Any, max_steps: int) -> Any:
        return attacks.advance(
            spec.logits, variables, problem, state, max_steps=max_steps
        )

    results |= {
        "num_clips": len(chosen),
        "num_samples": spec.num_samples,
        "compile_s": harness.seconds_of(lambda: advance(state, 1)),
        "passes": [],
    }
    started = time.perf_counter()
    while attacks.is_running(state) and not settings.is_over():
        num_passes = int(state.num_passes)
        state = jax.block_until_ready(advance(state, 4))
        if int(state.num_passes) > num_passes:
            now = time.perf_counter()
            values = {k: float(v[num_passes]) for k, v in state.history.items()}
            results["passes"].append({"seconds": now - started, **values})
            started = now
            yield results
    reason = attacks.STOP_REASONS[int(state.stop_reason)]
    results["stopped"] = "time limit" if attacks.is_running(state) else reason
    results |= peak_memory()
    yield results


def train_spchcmd(settings: Settings) -> Iterator[harness.Results]:
    """Trains SpchCMD on noise; an epoch takes as long on speech."""
    num_clips = settings.choose(7_680, 64)
    num_samples = settings.choose(16_000, SMALL_CLIPS["spchcmd"])
    found = training_epoch.measure(
        num_clips,
        settings.choose(NUM_TRAINING_EPOCHS, 2),
        num_samples=num_samples,
        seed=settings.seed,
    )
    sizes = {"num_clips": num_clips, "num_samples": num_samples}
    yield sizes | found | peak_memory()


def peak_memory() -> harness.Results:
    """Returns the most memory so far: of the device, or where unknown the process's."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return {"peak_gb": stats["peak_bytes_in_use"] / 1e9, "memory": "device"}
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"peak_gb": resident / 1e9, "memory": "process"}


class Part(NamedTuple):
    """A part, and its share of the time."""

    title: str
    run: Callable[[Settings], Iterator[harness.Results]]
    weight: int


PARTS = {
    1: Part("The README's command", run_readme, 95),
    2: Part("The networks against PyTorch", time_networks, 170),
    3: Part("Targets of Table 11 in one program", attack_targets, 50),
    4: Part("DDN and greedy against foolbox and ART", compare_toolboxes, 70),
    5: Part("The largest network", attack_sincnet_vgg19, 60),
    6: Part("Training", train_spchcmd, 35),
}
