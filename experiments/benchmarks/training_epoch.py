"""CPU seconds of a training epoch of SpchCMD, here and in another checkout.

    python experiments/benchmarks/training_epoch.py --against=OTHER_CHECKOUT

Both train on the same clips from the same seed, in turns, each in a process of its own.
"""

import dataclasses
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import harness
import numpy as np

from uap_jax import models
from uap_jax.data.dataset import Dataset, Splits
from uap_jax.training import loop
from uap_jax.training.recipes import recipe_for

NUM_CLASSES = 12
NUM_VALIDATION = 64
HERE = Path(__file__).resolve().parents[2]


def run(
    against: Annotated[str | None, "The other checkout."] = None,
    num_clips: Annotated[int, "Training clips."] = 1920,
    num_epochs: Annotated[int, "Timed, after one to warm up."] = 3,
    num_repeats: Annotated[int, "Processes of each checkout."] = 3,
    child: Annotated[bool, "Whether this process trains."] = False,
) -> Iterator[harness.Results]:
    if child:
        print(json.dumps(measure(num_clips, num_epochs + 1)))
        return
    trees = {"here": HERE} | ({"there": Path(against)} if against else {})
    results = harness.begin("optax", "numpy") | {
        # Without the folders of this machine.
        "command": re.sub(r"=\S*/", "=", " ".join(["python", *sys.argv])),
        "num_clips": num_clips,
        "runs": {name: [] for name in trees},
    }
    for _ in range(num_repeats):
        for name, tree in trees.items():
            found = in_process(tree, num_clips, num_epochs)
            # The first epoch compiles.
            results["runs"][name].append(found | {"epochs": found["epochs"][1:]})
    yield results


def in_process(tree: Path, num_clips: int, num_epochs: int) -> harness.Results:
    sizes = [f"--num_clips={num_clips}", f"--num_epochs={num_epochs}"]
    done = subprocess.run(
        [sys.executable, __file__, *sizes, "--child"],
        env=os.environ | {"PYTHONPATH": str(tree)},
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure(
    num_clips: int, num_epochs: int, *, num_samples: int = 16_000, seed: int = 0
) -> harness.Results:
    """Trains on noise; returns the use of each epoch, and the last loss."""
    rng = np.random.default_rng(seed)
    num_all = num_clips + NUM_VALIDATION
    clips = (3000 * rng.normal(size=(num_all, num_samples))).astype(np.int16)
    names = np.array([f"{index:05}" for index in range(num_all)])
    dataset = Dataset(
        name="noise",
        clips=clips,
        labels=(np.arange(num_all) % NUM_CLASSES).astype(np.int32),
        class_names=tuple("abcdefghijkl"),
        groups=names,
        names=names,
        sample_rate_hz=16_000,
        fingerprint="noise",
        noise=clips[:20],
    )
    train, rest = np.split(np.arange(num_all), [num_clips])
    recipe = recipe_for("spchcmd", "speech_commands")
    used, losses = [_used()], []

    def note(record: dict[str, float]) -> None:
        used.append(_used())
        losses.append(record["loss"])

    with tempfile.TemporaryDirectory() as folder:
        loop.train(
            models.create("spchcmd", num_classes=NUM_CLASSES, num_samples=num_samples),
            dataset,
            Splits(train, rest, rest),
            scaling="peak",
            recipe=dataclasses.replace(recipe, num_clips_seen=num_epochs * num_clips),
            seed=seed,
            workdir=Path(folder),
            on_epoch=note,
        )
    names_of = ("cpu_s", "system_s", "page_faults", "wall_s")
    rows = [
        dict(zip(names_of, row, strict=True)) for row in np.diff(used, axis=0).tolist()
    ]
    return {"epochs": rows, "loss": losses[-1]}


def _used() -> list[float]:
    now = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = now.ru_utime + now.ru_stime
    return [cpu_s, now.ru_stime, now.ru_minflt, time.perf_counter()]


def as_markdown(results: harness.Results) -> str:
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
    harness.launch(run, as_markdown)
