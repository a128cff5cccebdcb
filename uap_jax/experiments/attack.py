"""An attack from checkpoint to checkpoint."""

import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from uap_jax import attacks, checkpoints
from uap_jax.attacks import types
from uap_jax.experiments import artifacts
from uap_jax.experiments.config import RunConfig
from uap_jax.experiments.console import Console, format_seconds
from uap_jax.models import ModelSpec

# A perturbation below this has not begun to change predictions.
SILENT_DB = -50.0
# A segment between these times is long enough to cost nothing and short enough to stop.
SHORT_SEGMENT_S, LONG_SEGMENT_S = 5.0, 20.0
MAX_SEGMENT_STEPS = 2**20


def run_penalty(
    config: RunConfig,
    spec: ModelSpec,
    variables: Any,
    x: jax.Array,
    labels: jax.Array,
    *,
    target: int | None,
    key: jax.Array,
    workdir: Path,
    console: Console,
    save_every_s: float = 10.0,
) -> attacks.AttackResult:
    """Runs the penalty method, or goes on with it; writes metrics.jsonl.

    Args:
        config: Of the run.
        spec: The model.
        variables: Its weights.
        x: `[M, N]` attack clips in the box.
        labels: `[M]` int32.
        target: Class to say, or None.
        key: Of the batches.
        workdir: Checkpoints are kept here, and found when this is a continuation.
        console: Told of each pass.
        save_every_s: Shortest time between two checkpoints.

    Returns:
        What the attack found.
    """
    problem, state = attacks.penalty_init(
        spec.logits, variables, x, labels, key=key, target=target, config=config.attack
    )
    metrics = workdir / "metrics.jsonl"
    # A step is a batch's gradient in one phase, a block's logits in the other.
    max_steps = {"descend": 1, "evaluate": 1}
    with checkpoints.open_checkpoints(workdir / "checkpoints" / "attack") as saved:
        if saved.latest_step() is not None:
            state = saved.restore(state)
            console.say(f"going on after pass {int(state.num_passes)}")
        _write_passes(metrics, state)
        pass_seconds, last_save = 0.0, time.perf_counter()
        while int(state.stop_reason) == types.RUNNING:
            num_passes = int(state.num_passes)
            is_over = int(state.batch) * config.attack.batch_size >= len(labels)
            phase = "evaluate" if is_over else "descend"
            started = time.perf_counter()
            state = jax.block_until_ready(
                attacks.penalty_segment(
                    spec.logits,
                    variables,
                    problem,
                    state,
                    config=config.attack,
                    max_steps=max_steps[phase],
                )
            )
            seconds = time.perf_counter() - started
            pass_seconds += seconds
            if seconds < SHORT_SEGMENT_S:
                max_steps[phase] = min(2 * max_steps[phase], MAX_SEGMENT_STEPS)
            elif seconds > LONG_SEGMENT_S:
                max_steps[phase] = max(1, max_steps[phase] // 2)
            if int(state.num_passes) > num_passes:
                entry = _pass_entry(state, num_passes) | {"seconds": pass_seconds}
                artifacts.append_line(metrics, entry)
                _say_pass(config, entry, console)
                pass_seconds = 0.0
            stopped = int(state.stop_reason) != types.RUNNING
            if stopped or time.perf_counter() - last_save > save_every_s:
                saved.save(_clock(state, len(labels)), state)
                last_save = time.perf_counter()
    _say_if_silent(config, state, console)
    return attacks.penalty_result(state)


def _say_if_silent(
    config: RunConfig, state: attacks.PenaltyState, console: Console
) -> None:
    """Names the usual reason for an attack that never gets loud enough to work."""
    if int(state.stop_reason) != types.MAX_PASSES:
        return
    level_db = float(state.history["spl_db"][int(state.num_passes) - 1])
    coefficient = float(config.attack.penalty_coefficient or 0)
    if level_db < SILENT_DB and coefficient:
        console.say(
            f"the perturbation stayed at {level_db:.0f} dB: its level outweighs the "
            "hinge for this model; try --set attack.penalty_coefficient="
            f"{4 * coefficient:g}"
        )


def _clock(state: attacks.PenaltyState, num_clips: int) -> int:
    """A number that grows with every segment, to name checkpoints by."""
    ticks_per_pass = 2 * num_clips + 2
    ticks = int(state.batch) + int(state.block)
    stopped = int(state.stop_reason) != types.RUNNING
    return int(state.num_passes) * ticks_per_pass + ticks + stopped


def _write_passes(path: Path, state: attacks.PenaltyState) -> None:
    """Writes the passes that a state holds; times are kept where they were written.

    The last checkpoint can be older than the last line of the file.
    """
    written = {entry["pass"]: entry for entry in artifacts.read_lines(path)}
    entries = []
    for index in range(int(state.num_passes)):
        entry = _pass_entry(state, index)
        seconds = written.get(entry["pass"], {}).get("seconds")
        entries.append(entry | {"seconds": seconds})
    artifacts.write_lines(path, entries)


def _pass_entry(state: attacks.PenaltyState, index: int) -> dict[str, Any]:
    values = {
        field: float(np.asarray(column)[index])
        for field, column in state.history.items()
    }
    return {"pass": index + 1, **values}


def _say_pass(config: RunConfig, entry: dict[str, Any], console: Console) -> None:
    console.say(
        f"pass {entry['pass']}/{config.attack.max_passes}: "
        f"ASR {entry['asr']:.3f} (goal {config.attack.target_asr:g}), "
        f"SPL {entry['spl_db']:.1f} dB, {format_seconds(entry['seconds'])}"
    )
