"""What attacks leave while they run: checkpoints, metrics.jsonl, a clock, lines."""

import contextlib
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from uap_jax import attacks, checkpoints, files
from uap_jax.attacks import LogitsFn, types
from uap_jax.attacks.methods import resolve_method
from uap_jax.console import Console
from uap_jax.data.rooms import Rooms
from uap_jax.errors import UsageError
from uap_jax.runs.config import RunConfig
from uap_jax.runs.corpus import Clips
from uap_jax.runs.same_weights import difference, identity
from uap_jax.runs.store import PROBLEM
from uap_jax.runs.victim import Victim
from uap_jax.text import format_seconds

# A perturbation below this has not begun to change predictions.
SILENT_DB = -50.0
# Seconds of an attack between two of its checkpoints, at least.
SAVE_EVERY_S = 10.0
# Of the free memory; programs take more than they report.
MEMORY_SHARE = 0.7


class Prepared(NamedTuple):
    """What a run has before its attack."""

    config: RunConfig
    workdir: Path
    console: Console
    clips: Clips
    victim: Victim
    gain: float  # of the sound
    keys: jax.Array  # [2], of the attack and of the evaluation
    bank: Rooms | None = None


class Trail:
    """Follows an attack into checkpoints, metrics.jsonl and a clock."""

    def __init__(
        self, ready: Prepared, state: Any, saved: checkpoints.Checkpoints
    ) -> None:
        self.state = state
        self.ready = ready
        self._saved = saved
        self._num_saves = saved.latest_step() or 0
        self._metrics = ready.workdir / "metrics.jsonl"
        _write_passes(self._metrics, state)
        self._clock = ready.workdir / "checkpoints" / "clock.json"
        self._pass_seconds = _read_clock(self._clock, int(state.num_passes))
        self._unsaved_seconds = 0.0

    @property
    def progress(self) -> tuple[int, int]:
        """Where the attack stands: passes, and clips of the running pass."""
        return int(self.state.num_passes), int(self.state.position)

    def spend(self, seconds: float) -> None:
        """Counts seconds towards the running pass."""
        self._pass_seconds += seconds
        self._unsaved_seconds += seconds

    def follow(self, state: Any, seconds: float) -> None:
        """Takes the state after a segment, at most the end of a pass."""
        self.spend(seconds)
        num_passes = int(self.state.num_passes)
        self.state = state
        if int(state.num_passes) > num_passes:
            entry = _pass_entry(state, num_passes) | {"seconds": self._pass_seconds}
            files.append_line(self._metrics, entry)
            _say_pass(self.ready, entry, state.history["asr"].shape[0])
            self._pass_seconds = 0.0
        stopped = not attacks.is_running(state)
        # By this attack's seconds: many together spend no more of the time on saving.
        if stopped or self._unsaved_seconds > SAVE_EVERY_S:
            self._num_saves += 1
            self._saved.save(self._num_saves, state)
            files.write_json(
                self._clock,
                {"pass": int(state.num_passes), "seconds": self._pass_seconds},
            )
            self._unsaved_seconds = 0.0


def announce(ready: Prepared) -> None:
    """Says what the attack is, and notes what its checkpoints are about."""
    config = ready.config
    goal = f'"{config.target}"' if config.target else "any wrong class"
    start = f' of "{config.attack_class}"' if config.attack_class else ""
    num_clips = len(ready.clips.attack)
    name = resolve_method(config.method).name
    way = f", through {config.channel}" if config.channel else ""
    ready.console.say(f"{name} attack on {num_clips} clips{start}, towards {goal}{way}")
    (ready.workdir / "checkpoints").mkdir(exist_ok=True)
    files.write_json(ready.workdir / PROBLEM, problem_of(ready))


def check_problem(ready: Prepared) -> None:
    """Raises UsageError if the checkpoints are about other clips or another model."""
    path, current = ready.workdir / PROBLEM, problem_of(ready)
    attacked = files.read_json(path)
    if attacked is None:
        return
    names = [
        f"{key} {attacked.get(key)}, now {current[key]}"
        for key in ("corpus", "model")
        if attacked.get(key) != current[key]
    ]
    try:
        # An earlier release did not note it.
        before = attacked.get("classifier") or current["classifier"]
        line = "; ".join(names) or difference(before, current["classifier"])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UsageError(f"{path}: damaged; delete {ready.workdir}") from None
    if line:
        raise UsageError(
            f"{ready.workdir}: holds an attack on other clips or another model "
            f"({line}); delete it or name another --workdir"
        )


def problem_of(ready: Prepared) -> dict[str, Any]:
    """Returns what problem.json says: without the same, checkpoints cannot resume."""
    return {
        "corpus": ready.clips.dataset.fingerprint,
        "model": ready.victim.facts["name"],
        "classifier": identity(ready.config, ready.victim.classifier),
    }


@contextlib.contextmanager
def open_trail(
    ready: Prepared, state: Any, place: Callable[[Any], Any]
) -> Generator[Trail, None, None]:
    """Opens the files of an attack, and resumes from its newest checkpoint.

    Args:
        ready: The run.
        state: The first; where there is a checkpoint, only its structure counts.
        place: Puts a state on the devices.

    Yields:
        What follows the attack; its checkpoints are complete when the context ends.
    """
    with checkpoints.open_checkpoints(
        ready.workdir / "checkpoints" / "attack"
    ) as saved:
        if saved.latest_step() is not None:
            state = place(saved.restore(state))
            ready.console.say(f"resuming after pass {int(state.num_passes)}")
        yield Trail(ready, state, saved)


def fitting_width(
    trails: Sequence[Trail], logits_fn: LogitsFn, variables: Any, problem: Any
) -> int:
    """Returns how many attacks fit into a device's memory, at most as many as run.

    Args:
        trails: Of all attacks.
        logits_fn, variables: The classifier.
        problem: Of any of them.
    """
    running = [trail for trail in trails if attacks.is_running(trail.state)]
    stats = jax.local_devices()[0].memory_stats() or {}
    if len(running) < 2 or "bytes_limit" not in stats:
        return 1
    started = time.perf_counter()
    width = attacks.fitting_width(
        logits_fn,
        variables,
        problem,
        running[0].state,
        # A power of two, so that no slot of a program is empty while all run.
        num_trials=1 << (len(running).bit_length() - 1),
        memory_bytes=int(MEMORY_SHARE * (stats["bytes_limit"] - stats["bytes_in_use"])),
    )
    seconds = time.perf_counter() - started
    for trail in running:
        trail.spend(seconds / len(running))
    return width


def _read_clock(path: Path, num_passes: int) -> float:
    """Returns the seconds that the running pass took before it was interrupted."""
    stored = files.read_json(path) or {}
    seconds = stored.get("seconds") if stored.get("pass") == num_passes else 0.0
    return seconds if isinstance(seconds, float | int) else 0.0


def _write_passes(path: Path, state: Any) -> None:
    """Writes the passes of a state; keeps the times that were written.

    The last checkpoint can be older than the last line of the file.
    """
    written = {str(entry.get("pass")): entry for entry in files.read_lines(path)}
    entries = []
    for index in range(int(state.num_passes)):
        entry = _pass_entry(state, index)
        seconds = written.get(str(entry["pass"]), {}).get("seconds")
        is_time = isinstance(seconds, float | int)
        entries.append(entry | {"seconds": seconds if is_time else None})
    files.write_lines(path, entries)


def _pass_entry(state: Any, index: int) -> dict[str, Any]:
    values = {
        name: float(np.asarray(column)[index]) for name, column in state.history.items()
    }
    return {"pass": index + 1, **values}


def _say_pass(ready: Prepared, entry: dict[str, Any], max_passes: int) -> None:
    goal = entry.get("asr_level", ready.config.attack.target_asr)
    parts = [f"ASR {entry['asr']:.3f} (goal {goal:g})"]
    if "visited" in entry:
        counts = ("visited", "skipped", "failed")
        parts += ["clips " + ", ".join(f"{entry[name]:.0f} {name}" for name in counts)]
    if "spl_db" in entry:
        parts.append(f"SPL {entry['spl_db']:.1f} dB")
    parts.append(format_seconds(entry["seconds"]))
    ready.console.say(f"pass {entry['pass']}/{max_passes}: {', '.join(parts)}")


def explain(ready: Prepared, result: attacks.AttackResult) -> None:
    """Says the usual reason for an attack without success."""
    config, reason = ready.config.attack, int(result.stop_reason)
    if ready.config.channel and not result.converged and reason == types.MAX_PASSES:
        best = float(np.nanmax(result.history["asr"]))
        ready.console.say(
            f"not reachable in {int(result.num_passes)} passes through "
            f"{ready.config.channel}: at best ASR {best:.3f} after a pass, of "
            f"{float(config.target_asr):g}"
        )
    last = int(result.num_passes) - 1
    if isinstance(config, attacks.PenaltyConfig) and reason == types.MAX_PASSES:
        coefficient = float(config.penalty_coefficient or 0)
        level_db = float(result.history["spl_db"][last])
        if coefficient and level_db < SILENT_DB:
            ready.console.say(
                f"the perturbation stayed at {level_db:.0f} dB: its level outweighs "
                "the hinge for this model; try --set attack.penalty_coefficient="
                f"{4 * coefficient:g}"
            )
    elif isinstance(config, attacks.GreedyConfig) and reason == types.STALLED:
        ddn = config.ddn
        ready.console.say(
            f"DDN failed on the {int(result.history['failed'][last])} clips "
            "left over; try more steps or a larger first norm, for example --set "
            f"ddn.num_steps={2 * ddn.num_steps} or --set "
            f"ddn.init_norm={4 * float(ddn.init_norm):g}"
        )
