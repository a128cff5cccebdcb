"""CPU seconds of a training epoch of SpchCMD, here and in another checkout.

    python experiments/benchmarks/training_epoch.py --against=OTHER_CHECKOUT

Both train on the same clips from the same seed, in turns, each in a process of its own.
"""

import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import harness
import jax
import numpy as np
from absl import app, flags

from uap_jax import models
from uap_jax.data.dataset import Dataset, Splits
from uap_jax.training import loop
from uap_jax.training.recipes import recipe_for

_AGAINST = flags.DEFINE_string("against", None, "The other checkout.")
_NUM_CLIPS = flags.DEFINE_integer("num_clips", 1920, "Training clips.")
_NUM_EPOCHS = flags.DEFINE_integer("num_epochs", 3, "Timed, after one to warm up.")
_NUM_REPEATS = flags.DEFINE_integer("num_repeats", 3, "Processes of each checkout.")
_OUTPUT = flags.DEFINE_string("output", None, "Where results go, without a suffix.")

NUM_CLASSES = 12
NUM_VALIDATION = 64
HERE = Path(__file__).resolve().parents[2]


def main(argv: list[str]) -> None:
    if argv[1:] == ["one"]:
        print(json.dumps(measure()))
        return
    machine = harness.use_all_cores()
    trees = {"here": HERE} | ({"there": Path(_AGAINST.value)} if _AGAINST.value else {})
    found: dict[str, list[Any]] = {name: [] for name in trees}
    for _ in range(_NUM_REPEATS.value):
        for name, tree in trees.items():
            found[name].append(in_process(tree))
    results = {
        "machine": machine,
        "date": harness.today(),
        "versions": harness.versions_of(["jax", "flax", "optax", "numpy"]),
        "command": " ".join(["python", *sys.argv]),
        "num_clips": _NUM_CLIPS.value,
        "runs": found,
    }
    harness.write_results(results, table_of(results), _OUTPUT.value)


def in_process(tree: Path) -> dict[str, Any]:
    sizes = [f"--num_clips={_NUM_CLIPS.value}", f"--num_epochs={_NUM_EPOCHS.value}"]
    done = subprocess.run(
        [sys.executable, __file__, *sizes, "one"],
        env=os.environ | {"PYTHONPATH": str(tree)},
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure() -> dict[str, Any]:
    """Trains on noise; returns the use of each epoch, and the last loss."""
    rng = np.random.default_rng(0)
    num_clips = _NUM_CLIPS.value + NUM_VALIDATION
    clips = (3000 * rng.normal(size=(num_clips, 16_000))).astype(np.int16)
    names = np.array([f"{index:05}" for index in range(num_clips)])
    dataset = Dataset(
        name="noise",
        clips=clips,
        labels=(np.arange(num_clips) % NUM_CLASSES).astype(np.int32),
        class_names=tuple("abcdefghijkl"),
        groups=names,
        names=names,
        sample_rate_hz=16_000,
        fingerprint="noise",
        noise=clips[:20],
    )
    train, rest = np.split(np.arange(num_clips), [_NUM_CLIPS.value])
    num_epochs = _NUM_EPOCHS.value + 1
    recipe = recipe_for("spchcmd", "speech_commands")
    seen = num_epochs * len(train)
    used, losses = [_used()], []

    def note(record: dict[str, float]) -> None:
        used.append(_used())
        losses.append(record["loss"])

    with tempfile.TemporaryDirectory() as folder:
        loop.train(
            models.create("spchcmd", num_classes=NUM_CLASSES),
            dataset,
            Splits(train, rest, rest),
            scaling="peak",
            recipe=dataclasses.replace(recipe, num_clips_seen=seen),
            seed=0,
            workdir=Path(folder),
            on_epoch=note,
        )
    jax.effects_barrier()
    epochs = (np.diff(used, axis=0)[1:]).tolist()
    names_of = ("cpu_s", "system_s", "page_faults", "wall_s")
    rows = [dict(zip(names_of, row, strict=True)) for row in epochs]
    return {"epochs": rows, "loss": losses[-1]}


def _used() -> list[float]:
    now = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = now.ru_utime + now.ru_stime
    return [cpu_s, now.ru_stime, now.ru_minflt, time.perf_counter()]


def table_of(results: dict[str, Any]) -> str:
    lines = [
        "# A training epoch of SpchCMD",
        "",
        f"{results['num_clips']} clips and {NUM_VALIDATION} for validation; medians "
        "over the epochs.",
        "",
        "| checkout | CPU seconds | of these in the system | page faults | seconds | "
        "last loss |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    medians = {}
    for name, runs in results["runs"].items():
        epochs = [epoch for run in runs for epoch in run["epochs"]]
        median = {
            key: statistics.median(epoch[key] for epoch in epochs) for key in epochs[0]
        }
        medians[name] = median["cpu_s"]
        losses = ", ".join(sorted({f"{run['loss']:.7f}" for run in runs}))
        lines.append(
            f"| {name} | {median['cpu_s']:.2f} | {median['system_s']:.2f} | "
            f"{median['page_faults']:,.0f} | {median['wall_s']:.2f} | {losses} |"
        )
    lines.append("")
    if "there" in medians:
        change = medians["here"] / medians["there"] - 1
        lines += [f"CPU seconds here against there: {change:+.0%}.", ""]
    return "\n".join([*lines, *harness.machine_lines(results), ""])


if __name__ == "__main__":
    app.run(main)
