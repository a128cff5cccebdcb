"""A stored perturbation added to a recording or to all of a folder."""

import dataclasses
import math
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from uap_jax.audio.placement import Placement, parse_placement
from uap_jax.errors import UsageError, user_mistakes
from uap_jax.runs.console import Console
from uap_jax.runs.perturbing import Applied, Perturb
from uap_jax.runs.renaming import Job, plan_file, plan_folder
from uap_jax.runs.stored import StoredRun, read_run, read_sound

if TYPE_CHECKING:
    from uap_jax.runs.predicting import Predictor

# Recordings that are perturbed side by side, and heard by the model at once.
_BLOCK_FILES = 32


@dataclasses.dataclass(frozen=True)
class Settings:
    """How recordings are perturbed.

    Attributes:
        placement: See `audio.placement.parse_placement`.
        as_float: Whether float32 samples are written, and nothing is clipped.
        overwrite: Whether files that are there already are replaced.
        predict: Whether the run's model is asked; None: if it is in the cache.
    """

    placement: str = "tile"
    as_float: bool = False
    overwrite: bool = False
    predict: bool | None = None


def apply(
    source: Path,
    target: Path,
    *,
    perturbation: Path,
    settings: Settings,
    cache_dir: Path,
) -> int:
    """Perturbs a recording, or all of a folder; returns the exit code.

    Args:
        source: A recording or a folder of them.
        target: The WAV file, or the folder, for the result. In a folder names stay as
            they are, but get the suffix .wav where they have another.
        perturbation: See `stored.read_run`.
        settings: How.
        cache_dir: Where models are kept.

    Returns:
        0, or 1 if recordings of a folder could not be used.

    Raises:
        UsageError: What was asked for can not be done.
        OSError: A file can not be written.
    """
    console = Console()
    run = read_run(perturbation)
    sound = read_sound(run) * np.float32(run.gain)
    with user_mistakes():
        placement = parse_placement(settings.placement)
    is_folder = source.is_dir()
    jobs, unusable = (
        plan_folder(source, target, settings.overwrite, console)
        if is_folder
        else (plan_file(source, target, settings.overwrite), [])
    )
    predictor = _find_predictor(run, settings.predict, cache_dir, console)
    console.say(_describe(run, sound, placement, settings.as_float))
    perturb = Perturb(run, sound, placement, settings.as_float, predictor)
    tally = _Tally(run.result["target"])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(jobs), _BLOCK_FILES):
            block = jobs[start : start + _BLOCK_FILES]
            done: list[tuple[Job, Applied]] = []
            for job, outcome in zip(block, pool.map(perturb, block), strict=True):
                if isinstance(outcome, Applied):
                    done.append((job, outcome))
                elif is_folder:
                    unusable.append((job.name, outcome.reason))
                else:
                    raise UsageError(str(outcome))
            predictions = _predict([each for _, each in done], predictor, len(jobs))
            for (job, applied), said in zip(done, predictions, strict=True):
                tally.add(applied, said)
                console.say(_line(job, applied, said, len(sound), run, placement))
            console.progress("perturbing", start + len(block), len(jobs))
    for name, reason in unusable:
        console.say(f"skipped {name}: {reason}")
    if is_folder:
        for line in tally.lines():
            console.say(line)
    if not unusable:
        return 0
    num_all = len(unusable) + tally.num_done
    print(
        f"error: {len(unusable)} of {num_all} recordings were skipped", file=sys.stderr
    )
    return 1


class _Tally:
    """Adds up what became of the recordings of a folder."""

    def __init__(self, wanted: str | None) -> None:
        self.num_done = 0
        self._wanted = wanted
        self._levels: list[tuple[float, float]] = []
        self._num_clipped = 0
        self._said: list[tuple[str, str]] = []

    def add(self, applied: Applied, said: tuple[str, str] | None) -> None:
        self.num_done += 1
        snr_db, snr_ac_db, num_clipped = applied.measured
        if math.isfinite(snr_ac_db):
            self._levels.append((snr_db, snr_ac_db))
        self._num_clipped += num_clipped > 0
        if said is not None:
            self._said.append(said)

    def lines(self) -> Iterator[str]:
        yield (
            f"{self.num_done} recordings perturbed, {self._num_clipped} of them with "
            "samples beyond full scale"
        )
        if self._levels:
            snr_db, snr_ac_db = np.mean(self._levels, axis=0)
            yield _format_levels(snr_db, snr_ac_db, "mean ")
        if self._said:
            changed = sum(before != after for before, after in self._said)
            line = f"{changed} of {len(self._said)} predictions changed"
            if self._wanted is not None:
                before, after = (
                    sum(word == self._wanted for word in words)
                    for words in zip(*self._said, strict=True)
                )
                line += f'; "{self._wanted}" for {after}, without the sound {before}'
            yield line


def _find_predictor(
    run: StoredRun, predict: bool | None, cache_dir: Path, console: Console
) -> "Predictor | None":
    weights = cache_dir / "models" / run.result["victim"]["name"] / "model.json"
    if predict is False or (predict is None and not weights.is_file()):
        return None
    from uap_jax.runs.predicting import load_predictor

    try:
        return load_predictor(run, cache_dir=cache_dir)
    except UsageError as error:
        if predict:
            raise
        console.say(f"no predictions: {error}")
        return None


def _predict(
    applied: Sequence[Applied], predictor: "Predictor | None", num_jobs: int
) -> list[tuple[str, str] | None]:
    """Returns for each recording what the model says before and after."""
    if predictor is None:
        return [None] * len(applied)
    # One size for all blocks, since each is compiled.
    size = min(num_jobs, _BLOCK_FILES)
    heard = np.zeros((size, 2, predictor.num_samples), np.float32)
    for index, each in enumerate(applied):
        if each.heard is not None:
            heard[index] = each.heard
    words = predictor.predict(heard.reshape(2 * size, -1))
    pairs = zip(words[::2], words[1::2], strict=True)
    return [
        None if each.heard is None else pair
        for each, pair in zip(applied, pairs, strict=False)
    ]


def _describe(
    run: StoredRun, sound: np.ndarray, placement: Placement, as_float: bool
) -> str:
    length_s = len(sound) / run.sample_rate_hz
    where = "over and over" if placement.repeats else "once, at the beginning"
    if placement.shift_s:
        where += f", {placement.shift_s:g} s later"
    form = "float32, nothing clipped" if as_float else "16 bits"
    return (
        f"adding {run.workdir / 'perturbation.wav'} ({length_s:.3g} s, gain "
        f"{run.gain:.3g}) {where}; longer than a recording it is cut; written as {form}"
    )


def _line(
    job: Job,
    applied: Applied,
    said: tuple[str, str] | None,
    num_sound: int,
    run: StoredRun,
    placement: Placement,
) -> str:
    length_s = applied.num_samples / applied.sample_rate_hz
    share = length_s * run.sample_rate_hz / num_sound
    if not placement.repeats:
        share = min(share, 1.0)
    channels = f"{applied.num_channels} channel{'s' * (applied.num_channels != 1)}"
    line = (
        f"{job.name}: {applied.sample_rate_hz} Hz, {channels}, "
        f"{length_s:.3g} s, the sound {share:.3g} times; "
        f"{_format_levels(*applied.measured[:2])}; "
        f"{applied.measured.num_clipped} samples beyond full scale"
    )
    return line if said is None else f'{line}; "{said[0]}" -> "{said[1]}"'


def _format_levels(snr_db: float, snr_ac_db: float, which: str = "") -> str:
    if math.isnan(snr_db):
        return f"{which}SNR n/a"
    return (
        f"{which}SNR {snr_db:.1f} dB with the resting level, {snr_ac_db:.1f} dB without"
    )
