"""Trials of a sweep whose attacks run several in one program.

Only the attacks are brought to their end here, in the folders of their trials. Each
trial is then carried out like any other, and finds its attack done.
"""

import contextlib
import time
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from uap_jax import files
from uap_jax.console import Console
from uap_jax.errors import UsageError
from uap_jax.files import fingerprint, flatten
from uap_jax.sweeps.plan import Trial
from uap_jax.sweeps.shared import Context, Shared, open_log
from uap_jax.sweeps.trials import Job, read_result

if TYPE_CHECKING:
    import jax

    from uap_jax.runs.beginning import Start

# Results come when all attacks of a group are done, and its folders are held so long.
MAX_GROUP = 32

# May differ in a group; `variant` only follows from what else does.
_OWN = ("target", "preset", "variant")


def grouped(jobs: Sequence[Job], *, at_once: int | None) -> list[list[Job]]:
    """Returns work in groups: trials that are alike but for target and numbers.

    Args:
        jobs: The work; groups come in the order of their first pieces.
        at_once: Attacks in one program; with 1 every piece is a group of its own.
            None: 1 on a processor, which is as fast so, and with several devices, of
            which each has its part of every batch; else what fits the memory.
    """
    if at_once is None and not _has_one_accelerator():
        at_once = 1
    if at_once == 1:
        return [[job] for job in jobs]
    alike: dict[str, list[Job]] = {}
    for job in jobs:
        key = kind_of_attack(job) if isinstance(job, Trial) else job.id
        alike.setdefault(key, []).append(job)
    return [
        group[first : first + MAX_GROUP]
        for group in alike.values()
        for first in range(0, len(group), MAX_GROUP)
    ]


def kind_of_attack(trial: Trial) -> str:
    """Returns a hash of what the trials of a group have in common."""
    flat = flatten(trial.config)
    kind = {key: value for key, value in flat.items() if key not in _OWN}
    # What a compiled attack takes as an argument is a float, and no other setting is.
    for key, value in kind.items():
        if key.startswith("attack.") and isinstance(value, float):
            kind[key] = "number"
    return fingerprint(kind, flat["target"] is None)


def attack_together(
    jobs: Sequence[Job],
    context: Context,
    shared: Shared,
    console: Console,
    at_once: int | None,
) -> dict[str, float]:
    """Runs the attacks of a group, or goes on with them.

    What keeps a trial out of it, be it done, at work elsewhere or mistaken, is met
    again when the trial is carried out; so is what keeps all of them from running
    together.

    Args:
        jobs: A group of `grouped`; one of a single piece is left to itself.
        context: Of the sweep.
        shared: Of this process.
        console: Shows how far it is.
        at_once: Attacks in one program; None: what fits the device's memory.

    Returns:
        The seconds of each attack, by the trial's id; none where it did not run here.
    """
    trials = [job for job in jobs if isinstance(job, Trial)]
    if len(trials) < 2:
        return {}
    from uap_jax.runs import judge
    from uap_jax.runs.attack import run_attacks
    from uap_jax.runs.beginning import begin_attack

    starts: dict[str, Start] = {}
    logs: list[Console] = []
    clips: tuple[jax.Array, jax.Array] | None = None
    with contextlib.ExitStack() as held:
        try:
            for trial in trials:
                folder = trial.folder(context.workdir)
                with contextlib.suppress(UsageError, OSError):
                    held.enter_context(files.locked(folder, wait=False))
                    if read_result(trial, context.workdir) is not None:
                        continue
                    logs.append(open_log(folder, console))
                    start = shared.begin(trial, folder, logs[-1])
                    first = next(iter(starts.values()), start)
                    # One that goes on keeps sizes that follow the machine it began on.
                    if _sizes(start) != _sizes(first):
                        continue
                    if clips is None:
                        clips = judge.attack_clips(
                            start.settings, start.dataset, start.splits
                        )
                    begin_attack(start, num_clips=len(clips[1]))
                    starts[trial.id] = start
            if clips is None or len(starts) < 2:
                return {}
            first = next(iter(starts.values()))
            console.say(f"{len(starts)} attacks together: {trials[0].label} and alike")
            shared.clock.seconds = 0.0
            started = time.perf_counter()
            run_attacks(
                [start.task for start in starts.values()],
                first.classifier,
                *clips,
                at_once=at_once,
            )
        except Exception as error:
            console.say(f"attacks one by one, for together: {type(error).__name__}")
            for log in logs:
                log.say("".join(traceback.format_exception(error)))
            return {}
    seconds = (time.perf_counter() - started) / len(starts)
    compiling = shared.clock.seconds / len(starts)
    shared.compile_seconds |= dict.fromkeys(starts, compiling)
    return dict.fromkeys(starts, seconds)


def _sizes(start: "Start") -> Any:
    import jax

    return jax.tree.structure(start.settings.attack)


def _has_one_accelerator() -> bool:
    import jax

    return jax.default_backend() != "cpu" and jax.device_count() == 1
