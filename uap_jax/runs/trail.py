"""What an attack leaves behind while it runs: checkpoints, metrics.jsonl, a clock."""

import contextlib
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np

from uap_jax import attacks, checkpoints, files
from uap_jax.runs.config import RunConfig
from uap_jax.runs.console import Console
from uap_jax.text import format_seconds


@contextlib.contextmanager
def open_trail(
    config: RunConfig,
    state: Any,
    workdir: Path,
    console: Console,
    *,
    place: Callable[[Any], Any],
    save_every_s: float,
) -> Generator["Trail", None, None]:
    """Opens the files of an attack, and goes on from its newest checkpoint.

    Args:
        config: Of the run.
        state: The first; where there is a checkpoint, only its structure counts.
        workdir: Of the run.
        console: Told of each pass.
        place: Puts a state on the devices.
        save_every_s: Seconds of this attack between two checkpoints, at least.

    Yields:
        What follows the attack; its checkpoints are whole when the context ends.
    """
    with checkpoints.open_checkpoints(workdir / "checkpoints" / "attack") as saved:
        if saved.latest_step() is not None:
            state = place(saved.restore(state))
            console.say(f"going on after pass {int(state.num_passes)}")
        yield Trail(config, state, workdir, console, saved, save_every_s)


class Trail:
    """Follows an attack; made by `open_trail`.

    Attributes:
        state: Of the attack, the newest.
        console: Told of each pass.
    """

    def __init__(
        self,
        config: RunConfig,
        state: Any,
        workdir: Path,
        console: Console,
        saved: checkpoints.Checkpoints,
        save_every_s: float,
    ) -> None:
        self.state = state
        self.console = console
        self._config = config
        self._saved = saved
        self._num_saves = saved.latest_step() or 0
        self._save_every_s = save_every_s
        self._metrics = workdir / "metrics.jsonl"
        _write_passes(self._metrics, state)
        self._clock = workdir / "checkpoints" / "clock.json"
        self._pass_seconds = _read_clock(self._clock, int(state.num_passes))
        self._unsaved_seconds = 0.0

    def spend(self, seconds: float) -> None:
        """Counts seconds towards the running pass."""
        self._pass_seconds += seconds
        self._unsaved_seconds += seconds

    def follow(self, state: Any, seconds: float) -> None:
        """Takes over the state after a segment, at most the end of a pass.

        Args:
            state: The new one.
            seconds: What the segment took of the time.
        """
        self.spend(seconds)
        num_passes = int(self.state.num_passes)
        self.state = state
        if int(state.num_passes) > num_passes:
            entry = _pass_entry(state, num_passes) | {"seconds": self._pass_seconds}
            files.append_line(self._metrics, entry)
            most = state.history["asr"].shape[0]
            _say_pass(self._config, entry, most, self.console)
            self._pass_seconds = 0.0
        stopped = not attacks.is_running(state)
        # Its own seconds: many attacks at once spend no more of the time on saving.
        if stopped or self._unsaved_seconds > self._save_every_s:
            self._num_saves += 1
            self._saved.save(self._num_saves, state)
            files.write_json(
                self._clock,
                {"pass": int(state.num_passes), "seconds": self._pass_seconds},
            )
            self._unsaved_seconds = 0.0


def _read_clock(path: Path, num_passes: int) -> float:
    """Returns the seconds that the running pass took before it was interrupted."""
    stored = files.read_json(path) or {}
    seconds = stored.get("seconds") if stored.get("pass") == num_passes else 0.0
    return seconds if isinstance(seconds, float | int) else 0.0


def _write_passes(path: Path, state: Any) -> None:
    """Writes the passes that a state holds; times are kept where they were written.

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
