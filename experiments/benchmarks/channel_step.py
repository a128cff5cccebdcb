"""Times a step of the decoupled attack on SpchCMD through channels, against none.

    python experiments/benchmarks/channel_step.py --output=OUTPUT

A step is the gradient over a batch of ten clips and the move; see the README beside
this file. CPU seconds are recorded too: other work on the machine changes them little.
"""

import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import harness
import jax
import jax.numpy as jnp
import numpy as np

from uap_jax import attacks, models
from uap_jax.audio import channels
from uap_jax.audio.channels import BANDS, Channel

NUM_CLASSES, TARGET = 12, 3
RATE_HZ = 16_000
NUM_ROOMS, ROOM_S = 200, 0.5


def run(
    num_repeats: Annotated[int, "Timings of each channel, in turns."] = 15,
    num_steps: Annotated[int, "Steps that one timing takes."] = 15,
    batch_size: Annotated[int, "Clips of a step."] = 10,
    num_sound_samples: Annotated[int, "Length of the sound."] = RATE_HZ,
) -> Iterator[harness.Results]:
    results = harness.begin()
    spec = models.create("spchcmd", num_classes=NUM_CLASSES)
    variables = jax.device_put(harness.random_variables(spec))
    # One batch more than is timed, so that no pass ends.
    num_clips = (num_steps + 1) * batch_size
    x = jnp.asarray(harness.random_clips(num_clips, spec.num_samples, seed=1))

    def steps_through(channel: Channel | None) -> harness.RunFn:
        sound = {} if channel is None else {"num_sound_samples": num_sound_samples}
        problem, state = attacks.begin(
            spec.logits,
            variables,
            x,
            jnp.zeros(num_clips, jnp.int32),
            key=jax.random.key(0),
            target=TARGET,
            # Clips are shifted in no step, with or without a channel.
            config=attacks.DecoupledConfig(
                batch_size=batch_size, max_passes=2, max_shift=0
            ),
            channel=channel,
            **sound,
        )
        return lambda: attacks.advance(
            spec.logits, variables, problem, state, max_steps=num_steps
        )

    runs, first_s = harness.prepared(
        {
            name: lambda channel=channel: steps_through(channel)
            for name, channel in channels_timed().items()
        },
        left_out := {},
    )
    times = {"step_ms": {}, "step_cpu_ms": {}}
    for _ in range(num_repeats):
        for name, advance in runs.items():
            cpu_s = time.process_time()
            wall_s = harness.seconds_of(advance)
            used = (wall_s, time.process_time() - cpu_s)
            for key, seconds in zip(times, used, strict=True):
                ms = seconds / num_steps * 1e3
                times[key].setdefault(name, []).append(ms)
    yield results | {
        "commit": commit(),
        "settings": {
            "batch_size": batch_size,
            "num_steps": num_steps,
            "num_repeats": num_repeats,
            "num_samples": spec.num_samples,
            "num_sound_samples": num_sound_samples,
        },
        "first_call_s": first_s,
        **times,
        "ratios_of_least": {key: against_none(of) for key, of in times.items()},
        "left_out": left_out,
    }


def channels_timed() -> dict[str, Channel | None]:
    rng = np.random.default_rng(0)
    num_taps = round(ROOM_S * RATE_HZ)
    decay = np.exp(-np.arange(num_taps) / (0.06 * RATE_HZ))
    bank = rng.standard_normal((NUM_ROOMS, num_taps)) * decay
    bank /= np.linalg.norm(bank, axis=1, keepdims=True)
    rooms = channels.rooms(bank, direct=32)
    band = channels.band(*BANDS["telephone"], sample_rate_hz=RATE_HZ)
    moment, once = channels.moment(), channels.once()
    return {
        "none": None,
        "moment": moment,
        "moment, band": channels.compose(moment, band),
        "moment, rooms": channels.compose(moment, rooms),
        "moment, rooms, band": channels.compose(moment, rooms, band),
        "once, rooms": channels.compose(once, rooms),
    }


def against_none(times: dict[str, list[float]]) -> dict[str, float]:
    return {name: min(values) / min(times["none"]) for name, values in times.items()}


def commit() -> str:
    """Returns the commit that is timed; "+" where the tree differs from it."""
    here = Path(__file__).parent
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
        cwd=here,
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or "unknown"


def as_markdown(results: harness.Results) -> str:
    settings = results["settings"]
    lines = [
        f"# A step of decoupled through channels, {settings['batch_size']} clips",
        "",
        "| channel | ms, least | against none | CPU ms, least | against none | "
        "CPU ms, median | first call, s |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    ratios = results["ratios_of_least"]
    for name, ms in results["step_ms"].items():
        cpu_ms = results["step_cpu_ms"][name]
        lines.append(
            f"| {name} | {min(ms):.2f} | {ratios['step_ms'][name]:.2f} | "
            f"{min(cpu_ms):.2f} | {ratios['step_cpu_ms'][name]:.2f} | "
            f"{statistics.median(cpu_ms):.2f} | {results['first_call_s'][name]:.1f} |"
        )
    return "\n".join(
        [
            *lines,
            "",
            f"- SpchCMD, random weights and clips of {settings['num_samples']} "
            f"samples, a sound of {settings['num_sound_samples']}; "
            f"{settings['num_repeats']} timings of {settings['num_steps']} steps, in "
            "turns.",
            f"- rooms: {NUM_ROOMS} responses of {ROOM_S} s; band: telephone.",
            f"- commit {results['commit']}.",
            *harness.machine_lines(results),
            "",
        ]
    )


if __name__ == "__main__":
    harness.launch(run, as_markdown)
