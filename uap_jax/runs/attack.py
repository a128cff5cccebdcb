"""Attacks from checkpoint to checkpoint: one, or several in one program."""

import contextlib
import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from uap_jax import attacks
from uap_jax.attacks import types
from uap_jax.models import Classifier
from uap_jax.runs.config import RunConfig
from uap_jax.runs.console import Console
from uap_jax.runs.trail import open_trail

# A perturbation below this has not begun to change predictions.
SILENT_DB = -50.0
# A segment between these times is long enough to cost nothing and short enough to stop.
SHORT_SEGMENT_S, LONG_SEGMENT_S = 5.0, 20.0
MAX_SEGMENT_STEPS = 2**20
# Of the free memory; the rest is for what a program takes beside what it reports.
MEMORY_SHARE = 0.7


class Task(NamedTuple):
    """The attack of one run.

    Attributes:
        config: Of the run.
        target: Class to say, or None.
        key: Of the batches.
        workdir: Checkpoints are kept here, and found when this is a continuation.
        console: Told of each pass.
    """

    config: RunConfig
    target: int | None
    key: jax.Array
    workdir: Path
    console: Console


def run_attack(
    config: RunConfig,
    classifier: Classifier,
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
        config, target, key, workdir, console: As in `Task`.
        classifier, x, labels, save_every_s: As for `run_attacks`.

    Returns:
        What the attack found.
    """
    task = Task(config, target, key, workdir, console)
    (found,) = run_attacks([task], classifier, x, labels, save_every_s=save_every_s)
    return found


def run_attacks(
    tasks: Sequence[Task],
    classifier: Classifier,
    x: jax.Array,
    labels: jax.Array,
    *,
    at_once: int | None = 1,
    save_every_s: float = 10.0,
) -> list[attacks.AttackResult]:
    """Runs the attacks of some runs, or goes on with them; writes metrics.jsonl.

    Each leaves what it leaves alone, so that one can go on where several stopped, and
    the other way round. The seconds of a segment are shared among those that advanced
    in it: the times of all add up to that which passed.

    Args:
        tasks: Alike but for target, key and the numbers of the attack's config.
        classifier: The classifier to fool.
        x: `[M, N]` attack clips in the box.
        labels: `[M]` int32.
        at_once: How many in one program; None: what fits the device's memory.
        save_every_s: Shortest time of an attack between two of its checkpoints.

    Returns:
        What each attack found.

    Raises:
        ValueError: An input is out of its range, or attacks are not alike.
    """
    logits_fn, variables = classifier.logits, classifier.variables
    devices = jax.devices()
    if len(devices) > 1:
        logits_fn = attacks.over_devices(logits_fn, devices)
        for task in tasks:
            task.console.say(f"each batch is spread over {len(devices)} devices")
    place = functools.partial(attacks.replicated, devices=devices)
    variables, x, labels, keys = place((variables, x, labels, [t.key for t in tasks]))
    problems, states = attacks.begin_together(
        logits_fn,
        variables,
        x,
        labels,
        keys=keys,
        targets=[task.target for task in tasks if task.target is not None] or None,
        configs=[task.config.attack for task in tasks],
    )
    # Like the states that steps return; else a second program is compiled for those.
    problems, states = place((problems, states))
    max_steps = 1
    with contextlib.ExitStack() as stack:
        trails = [
            stack.enter_context(
                open_trail(
                    task.config,
                    state,
                    task.workdir,
                    task.console,
                    place=place,
                    save_every_s=save_every_s,
                )
            )
            for task, state in zip(tasks, states, strict=True)
        ]
        states = [trail.state for trail in trails]
        running = [i for i, state in enumerate(states) if attacks.is_running(state)]
        started = time.perf_counter()
        if at_once is None:
            at_once = _fitting_width(
                logits_fn,
                variables,
                [problems[i] for i in running],
                [states[i] for i in running],
            )
        seconds = time.perf_counter() - started
        for i in running:
            trails[i].spend(seconds / len(running))
            if min(at_once, len(running)) > 1:
                line = f"one of {len(running)} attacks, {at_once} at once"
                trails[i].console.say(line)
        while any(attacks.is_running(state) for state in states):
            first = min(
                (i for i, state in enumerate(states) if attacks.is_running(state)),
                key=lambda i: (int(states[i].num_passes), int(states[i].position)),
            )
            phase, done, total = attacks.progress(problems[first], states[first])
            what = f"pass {int(states[first].num_passes) + 1}, {phase}"
            trails[first].console.progress(what, done, total)
            started = time.perf_counter()
            advanced = attacks.advance_together(
                logits_fn,
                variables,
                problems,
                states,
                width=at_once,
                max_steps=max_steps,
            )
            jax.block_until_ready(advanced)
            seconds = time.perf_counter() - started
            if seconds < SHORT_SEGMENT_S:
                max_steps = min(2 * max_steps, MAX_SEGMENT_STEPS)
            elif seconds > LONG_SEGMENT_S:
                max_steps = max(1, max_steps // 2)
            chosen = [
                i
                for i, (new, old) in enumerate(zip(advanced, states, strict=True))
                if new is not old
            ]
            states = advanced
            for i in chosen:
                trails[i].follow(states[i], seconds / len(chosen))
    results = [attacks.result(state) for state in states]
    for task, result in zip(tasks, results, strict=True):
        _explain(task.config, result, task.console)
    return results


def _fitting_width(
    logits_fn: types.LogitsFn,
    variables: Any,
    problems: Sequence[Any],
    states: Sequence[Any],
) -> int:
    """Returns how many attacks fit into a device's memory, at most as many as run."""
    memory_bytes = _free_bytes()
    if len(states) < 2 or memory_bytes is None:
        return 1
    return attacks.fitting_width(
        logits_fn,
        variables,
        problems[0],
        states[0],
        # No place of a program goes empty while all of them run.
        num_trials=1 << (len(states).bit_length() - 1),
        memory_bytes=int(MEMORY_SHARE * memory_bytes),
    )


def _free_bytes() -> int | None:
    """Returns a device's free memory, or None where it does not tell."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" not in stats:
        return None
    return stats["bytes_limit"] - stats["bytes_in_use"]


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
