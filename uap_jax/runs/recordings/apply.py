"""A stored perturbation added to a recording, or to all of a folder."""

import math
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from uap_jax.console import Console
from uap_jax.data.listing import list_recordings
from uap_jax.errors import UsageError
from uap_jax.runs import store
from uap_jax.runs.channels.arrival import Arrival, Drawn, describe, draw, parse_arrival
from uap_jax.runs.recordings.answers import (
    Answer,
    Job,
    by_window,
    count,
    describe_answers,
    predict_windows,
)
from uap_jax.runs.recordings.perturbing import Applied, Sound
from uap_jax.runs.store import StoredRun
from uap_jax.runs.victim import Predictor, load_predictor

_WAV = (".wav", ".wave")
# Limit of file systems.
_MAX_NAME_BYTES = 255
# Recordings that are perturbed side by side.
_BLOCK_FILES = 32


def apply(
    source: Path,
    target: Path,
    *,
    perturbation: Path,
    cache_dir: Path,
    arrives: Mapping[str, Any] = MappingProxyType({}),
    as_float: bool = False,
    overwrite: bool = False,
    predict: bool | None = None,
) -> tuple[int, list[str], int]:
    """Perturbs a recording, or all of a folder.

    Args:
        source: A recording or a folder of them.
        target: The WAV file, or the folder, for the result. In a folder names stay as
            they are, but get the suffix .wav where they have another.
        perturbation: See `store.read_run`.
        cache_dir: Where models are cached.
        arrives: Arguments of `arrival.parse_arrival` on moment, rooms, channel.
        as_float: Whether float32 samples are written, and nothing is clipped.
        overwrite: Whether existing files are replaced.
        predict: Whether the run's model classifies them, window by window; None: if it
            is in the cache.

    Returns:
        The number of recordings, a line for each that could not be used, and how many
        have a prediction without finite logits.

    Raises:
        UsageError: A setting, the run or the single recording cannot be used.
        OSError: A file cannot be written.
    """
    console = Console()
    run = store.read_run(perturbation)
    samples = store.read_sound(run) * np.float32(run.gain)
    way = parse_arrival(
        **arrives,
        sample_rate_hz=run.sample_rate_hz,
        cache_dir=cache_dir,
        console=console,
    )
    is_folder = source.is_dir()
    jobs, skipped = (
        _plan_folder(source, target, overwrite, console)
        if is_folder
        else (_plan_file(source, target, overwrite), [])
    )
    predictor = _find_predictor(run, predict, cache_dir, console)
    console.say(_describe(run, samples, way, as_float))
    scaling = run.config["scaling"]
    sound = Sound(samples, run.sample_rate_hz, scaling=scaling, as_float=as_float)
    wanted = run.result["target"]
    done: list[tuple[Applied, list[Answer]]] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(jobs), _BLOCK_FILES):
            block = jobs[start : start + _BLOCK_FILES]
            # By name, so that what resumes draws the same.
            names = [job.name if is_folder else source.name for job in block]
            drawn = {
                job: draw(way, name, num_sound_samples=len(samples))
                for job, name in zip(block, names, strict=True)
            }
            outcomes = pool.map(
                lambda job, how: sound.add_to(job.source, job.target, how),
                *(block, drawn.values()),
            )
            applied: dict[Job, Applied] = {}
            for job, outcome in zip(block, outcomes, strict=True):
                if isinstance(outcome, Applied):
                    applied[job] = outcome
                elif is_folder:
                    skipped.append(f"{job.name}: {outcome.reason}")
                else:
                    raise UsageError(str(outcome))
            answers = predict_windows(predictor, list(applied))
            for job, result in applied.items():
                heard = answers.get(job, [])
                done.append((result, heard))
                line = _line(job, result, drawn[job], len(samples), run)
                console.say(line + describe_answers(heard, predictor, wanted))
                if len(heard) > 1 and not is_folder:
                    console.say(by_window(heard))
            console.progress("perturbing", start + len(block), len(jobs))
    for line in skipped:
        console.say(f"skipped {line}")
    if is_folder:
        for line in _totals(done, wanted):
            console.say(line)
    num_non_finite = sum(
        any(store.NOT_FINITE in answer for answer in heard) for _, heard in done
    )
    if num_non_finite:
        console.say(
            f"logits that are not finite: {num_non_finite} of {len(done)} recordings"
        )
    return len(done) + len(skipped), skipped, num_non_finite


def _plan_file(source: Path, target: Path, overwrite: bool) -> list[Job]:
    if not source.exists():
        raise UsageError(f"{source}: expected a recording or a folder, got none")
    if target.suffix.lower() not in _WAV:
        raise UsageError(f"{target}: expected a name that ends in .wav for the result")
    if target.is_dir():
        raise UsageError(f"{target}: expected a file for the result, got a folder")
    if _is_same(source, target):
        raise UsageError(f"{target}: expected another file than the recording itself")
    if os.path.lexists(target) and not overwrite:
        raise UsageError(f"{target}: exists; --overwrite replaces it")
    return [Job(str(source), source, target)]


def _plan_folder(
    source: Path, target: Path, overwrite: bool, console: Console
) -> tuple[list[Job], list[str]]:
    """Returns what to do for a folder, and a line for what cannot be done.

    A result never replaces a recording or another result.
    """
    if os.path.lexists(target) and not target.is_dir():
        raise UsageError(f"{target}: expected a folder for the results, got a file")
    if _is_within(target, source) or _is_within(source, target):
        raise UsageError(
            f"{target}: expected a folder outside of {source} that does not hold it"
        )
    names, _ = list_recordings(source)
    if not names:
        raise UsageError(f"{source}: expected recordings, got none")
    # Those that keep their names first.
    names.sort(key=lambda name: not name.lower().endswith(_WAV))
    jobs, skipped = [], []
    taken: dict[Path, str] = {}
    num_existing = 0
    for name in names:
        result = target / (name if name.lower().endswith(_WAV) else f"{name}.wav")
        job = Job(name, source / name, result)
        first = taken.setdefault(result, name)
        if first != name:
            skipped.append(f"{name}: its result would replace that of {first}")
        elif len(os.fsencode(result.name)) > _MAX_NAME_BYTES:
            skipped.append(f"{name}: its name is too long for .wav to be added")
        elif _is_within(result.parent, source) or _is_same(job.source, result):
            skipped.append(f"{name}: its result would be among the recordings")
        elif os.path.lexists(result) and (result.is_dir() or not overwrite):
            num_existing += 1
        else:
            jobs.append(job)
    if num_existing:
        console.say(f"{num_existing} results exist; --overwrite replaces them")
    return jobs, skipped


def _is_same(one: Path, other: Path) -> bool:
    return other.exists() and os.path.samefile(one, other)


def _is_within(folder: Path, other: Path) -> bool:
    """Returns whether a folder, which need not exist, is another or in it."""
    return folder.resolve().is_relative_to(other.resolve())


def _find_predictor(
    run: StoredRun, predict: bool | None, cache_dir: Path, console: Console
) -> Predictor | None:
    victim = run.result["victim"]
    weights = cache_dir / "models" / victim["name"] / "model.json"
    is_there = victim.get("training") == "shipped" or weights.is_file()
    if predict is False or (predict is None and not is_there):
        return None
    try:
        return load_predictor(run, cache_dir=cache_dir)
    except UsageError as error:
        if predict:
            raise
        console.say(f"no predictions: {error}")
        return None


def _describe(run: StoredRun, samples: np.ndarray, way: Arrival, as_float: bool) -> str:
    length_s = len(samples) / run.sample_rate_hz
    form = "float32, nothing clipped" if as_float else "16 bits"
    return (
        f"adding {run.workdir / 'perturbation.wav'} ({length_s:.3g} s, gain "
        f"{run.gain:.3g}) {describe(way)}; cut to shorter recordings; written as {form}"
    )


def _line(
    job: Job, applied: Applied, drawn: Drawn, num_samples: int, run: StoredRun
) -> str:
    length_s = applied.num_samples / applied.sample_rate_hz
    share = length_s * run.sample_rate_hz / num_samples
    if not drawn.placement.repeats:
        share = min(share, 1.0)
    channels = f"{applied.num_channels} channel{'s' * (applied.num_channels != 1)}"
    how = "".join(f", {words}" for words in drawn.words)
    return (
        f"{job.name}: {applied.sample_rate_hz} Hz, {channels}, "
        f"{length_s:.3g} s, the sound {share:.3g} times{how}; "
        f"{_format_levels(*applied.measured[:2])}; "
        f"{applied.measured.num_clipped} samples beyond full scale"
    )


def _totals(
    done: list[tuple[Applied, list[Answer]]], wanted: str | None
) -> Iterator[str]:
    """Yields lines on all recordings of a folder."""
    measured = [applied.measured for applied, _ in done]
    num_clipped = sum(levels.num_clipped > 0 for levels in measured)
    yield (
        f"{len(done)} recordings perturbed, {num_clipped} of them with "
        "samples beyond full scale"
    )
    levels = [each[:2] for each in measured if math.isfinite(each.snr_ac_db)]
    if levels:
        yield _format_levels(*np.mean(levels, axis=0), which="mean ")
    answers = [answer for _, heard in done for answer in heard]
    if answers:
        num_changed, num_after, num_before = count(answers, wanted)
        line = f"{num_changed} of {len(answers)} predictions changed"
        if wanted is not None:
            line += f'; "{wanted}" for {num_after}, without the sound {num_before}'
        yield line


def _format_levels(snr_db: float, snr_ac_db: float, which: str = "") -> str:
    if math.isnan(snr_db):
        return f"{which}SNR n/a"
    return (
        f"{which}SNR {snr_db:.1f} dB with the resting level, {snr_ac_db:.1f} dB without"
    )
