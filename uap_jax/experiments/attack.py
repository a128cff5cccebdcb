"""An attack from checkpoint to checkpoint."""

import functools
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from uap_jax import attacks, checkpoints
from uap_jax.attacks import types
from uap_jax.attacks.methods import METHODS
from uap_jax.experiments import artifacts
from uap_jax.experiments.config import RunConfig
from uap_jax.experiments.console import Console, format_seconds
from uap_jax.models import ModelSpec

# A perturbation below this has not begun to change predictions.
SILENT_DB = -50.0
# A segment between these times is long enough to cost nothing and short enough to stop.
SHORT_SEGMENT_S, LONG_SEGMENT_S = 5.0, 20.0
MAX_SEGMENT_STEPS = 2**20


def run_attack(
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
    """Runs the attack of a run, or goes on with it; writes metrics.jsonl.

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
    method = METHODS[config.method]
    logits_fn = spec.logits
    devices = jax.devices()
    if len(devices) > 1:
        logits_fn = attacks.over_devices(logits_fn, devices)
        console.say(f"each batch is spread over {len(devices)} devices")
    place = functools.partial(attacks.replicated, devices=devices)
    variables, x, labels, key = place((variables, x, labels, key))
    problem, state = method.init(
        logits_fn, variables, x, labels, key=key, target=target, config=config.attack
    )
    metrics = workdir / "metrics.jsonl"
    # A step of one phase takes another time than one of the other.
    max_steps: dict[str, int] = {}
    with checkpoints.open_checkpoints(workdir / "checkpoints" / "attack") as saved:
        if saved.latest_step() is not None:
            state = place(saved.restore(state))
            console.say(f"going on after pass {int(state.num_passes)}")
        num_saves = saved.latest_step() or 0
        _write_passes(metrics, state)
        clock = workdir / "checkpoints" / "clock.json"
        pass_seconds = _read_clock(clock, int(state.num_passes))
        last_save = time.perf_counter()
        while int(state.stop_reason) == types.RUNNING:
            num_passes = int(state.num_passes)
            phase, done, total = method.progress(problem, state, config=config.attack)
            console.progress(f"pass {num_passes + 1}, {phase}", done, total)
            steps = max_steps.setdefault(phase, 1)
            started = time.perf_counter()
            state = jax.block_until_ready(
                method.segment(
                    logits_fn,
                    variables,
                    problem,
                    state,
                    config=config.attack,
                    max_steps=steps,
                )
            )
            seconds = time.perf_counter() - started
            pass_seconds += seconds
            if seconds < SHORT_SEGMENT_S:
                max_steps[phase] = min(2 * steps, MAX_SEGMENT_STEPS)
            elif seconds > LONG_SEGMENT_S:
                max_steps[phase] = max(1, steps // 2)
            if int(state.num_passes) > num_passes:
                entry = _pass_entry(state, num_passes) | {"seconds": pass_seconds}
                artifacts.append_line(metrics, entry)
                _say_pass(config, entry, state.history["asr"].shape[0], console)
                pass_seconds = 0.0
            stopped = int(state.stop_reason) != types.RUNNING
            if stopped or time.perf_counter() - last_save > save_every_s:
                num_saves += 1
                saved.save(num_saves, state)
                passes = int(state.num_passes)
                artifacts.write_json(clock, {"pass": passes, "seconds": pass_seconds})
                last_save = time.perf_counter()
    result = method.result(state)
    _explain(config, result, console)
    return result


def _read_clock(path: Path, num_passes: int) -> float:
    """Returns the seconds that the running pass took before it was interrupted."""
    stored = artifacts.read_json(path) or {}
    seconds = stored.get("seconds") if stored.get("pass") == num_passes else 0.0
    return seconds if isinstance(seconds, float | int) else 0.0


def _explain(config: RunConfig, result: attacks.AttackResult, console: Console) -> None:
    """Names the usual reason for an attack that gets nowhere."""
    reason = int(result.stop_reason)
    last = int(result.num_passes) - 1
    if isinstance(config.attack, attacks.PenaltyConfig):
        coefficient = float(config.attack.penalty_coefficient or 0)
        if reason != types.MAX_PASSES or not coefficient:
            return
        level_db = float(result.history["spl_db"][last])
        if level_db < SILENT_DB:
            console.say(
                f"the perturbation stayed at {level_db:.0f} dB: its level outweighs "
                "the hinge for this model; try --set attack.penalty_coefficient="
                f"{4 * coefficient:g}"
            )
    elif isinstance(config.attack, attacks.GreedyConfig) and reason == types.STALLED:
        ddn = config.attack.ddn
        console.say(
            f"DDN found nothing for the {int(result.history['failed'][last])} clips "
            "left over; try more steps or a larger first norm, for example --set "
            f"ddn.num_steps={2 * ddn.num_steps} or --set "
            f"ddn.init_norm={4 * float(ddn.init_norm):g}"
        )


def _write_passes(path: Path, state: attacks.PenaltyState) -> None:
    """Writes the passes that a state holds; times are kept where they were written.

    The last checkpoint can be older than the last line of the file.
    """
    written = {str(entry.get("pass")): entry for entry in artifacts.read_lines(path)}
    entries = []
    for index in range(int(state.num_passes)):
        entry = _pass_entry(state, index)
        seconds = written.get(str(entry["pass"]), {}).get("seconds")
        is_time = isinstance(seconds, float | int)
        entries.append(entry | {"seconds": seconds if is_time else None})
    artifacts.write_lines(path, entries)


def _pass_entry(state: attacks.PenaltyState, index: int) -> dict[str, Any]:
    values = {
        field: float(np.asarray(column)[index])
        for field, column in state.history.items()
    }
    return {"pass": index + 1, **values}


def _say_pass(
    config: RunConfig, entry: dict[str, Any], num_passes: int, console: Console
) -> None:
    goal = entry.get("asr_level", config.attack.target_asr)
    parts = [
        f"ASR {entry['asr']:.3f} (goal {goal:g})",
        f"SPL {entry['spl_db']:.1f} dB",
        format_seconds(entry["seconds"]),
    ]
    if "visited" in entry:
        counts = ("visited", "skipped", "failed")
        text = ", ".join(f"{entry[name]:.0f} {name}" for name in counts)
        parts.insert(1, f"clips {text}")
    console.say(f"pass {entry['pass']}/{num_passes}: {', '.join(parts)}")
