"""A stored perturbation added to a recording, or to all of a folder."""

import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from uap_jax.audio.files import AudioFileError, read_audio, to_pcm16
from uap_jax.audio.placement import Placement, parse_placement
from uap_jax.console import Console
from uap_jax.data.dataset import to_waveform
from uap_jax.data.listing import list_recordings
from uap_jax.errors import UsageError, user_mistakes
from uap_jax.runs import store
from uap_jax.runs.perturbing import Applied, Sound
from uap_jax.runs.store import StoredRun
from uap_jax.runs.victim import Predictor, load_predictor

_WAV = (".wav", ".wave")
# Limit of file systems.
_MAX_NAME_BYTES = 255
# Recordings that are perturbed side by side, and classified at once.
_BLOCK_FILES = 32


class Job(NamedTuple):
    """A recording and where its perturbed form goes."""

    name: str
    source: Path
    target: Path


def apply(
    source: Path,
    target: Path,
    *,
    perturbation: Path,
    cache_dir: Path,
    placement: str = "tile",
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
        placement: See `audio.placement.parse_placement`.
        as_float: Whether float32 samples are written, and nothing is clipped.
        overwrite: Whether existing files are replaced.
        predict: Whether the run's model classifies them; None: if it is in the cache.

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
    with user_mistakes():
        where = parse_placement(placement)
    is_folder = source.is_dir()
    jobs, skipped = (
        _plan_folder(source, target, overwrite, console)
        if is_folder
        else (_plan_file(source, target, overwrite), [])
    )
    predictor = _find_predictor(run, predict, cache_dir, console)
    console.say(_describe(run, samples, where, as_float))
    scaling = run.config["scaling"]
    sound = Sound(
        samples, run.sample_rate_hz, where, scaling=scaling, as_float=as_float
    )
    done: list[tuple[Applied, tuple[str, str] | None]] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(jobs), _BLOCK_FILES):
            block = jobs[start : start + _BLOCK_FILES]
            outcomes = pool.map(lambda job: sound.add_to(job.source, job.target), block)
            applied: dict[Job, Applied] = {}
            for job, outcome in zip(block, outcomes, strict=True):
                if isinstance(outcome, Applied):
                    applied[job] = outcome
                elif is_folder:
                    skipped.append(f"{job.name}: {outcome.reason}")
                else:
                    raise UsageError(str(outcome))
            # One size for all blocks, since each is compiled.
            size = min(len(jobs), _BLOCK_FILES)
            predictions = _predict(predictor, list(applied), size)
            for job, result in applied.items():
                words = predictions.get(job)
                done.append((result, words))
                console.say(_line(job, result, words, len(samples), run, where))
            console.progress("perturbing", start + len(block), len(jobs))
    for line in skipped:
        console.say(f"skipped {line}")
    if is_folder:
        for line in _totals(done, run.result["target"]):
            console.say(line)
    num_non_finite = sum(store.NOT_FINITE in (words or ()) for _, words in done)
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


def _predict(
    predictor: Predictor | None, jobs: list[Job], size: int
) -> dict[Job, tuple[str, str]]:
    """Returns the classes of recordings, before and after, that are long enough."""
    if predictor is None:
        return {}
    classifier = predictor.classifier
    clips = np.zeros((size, 2, classifier.num_samples), np.float32)
    usable = []
    for job in jobs:
        # Of a few samples nothing may be left at the model's rate.
        try:
            pair = [
                read_audio(
                    path,
                    sample_rate_hz=classifier.sample_rate_hz or 0,
                    num_samples=classifier.num_samples,
                )
                for path in (job.source, job.target)
            ]
        except AudioFileError:
            continue
        clips[len(usable)] = to_waveform(to_pcm16(np.stack(pair)))
        usable.append(job)
    words = predictor.predict(clips.reshape(2 * size, -1))
    pairs = zip(words[::2], words[1::2], strict=True)
    return dict(zip(usable, pairs, strict=False))


def _describe(
    run: StoredRun, samples: np.ndarray, placement: Placement, as_float: bool
) -> str:
    length_s = len(samples) / run.sample_rate_hz
    where = "over and over" if placement.repeats else "once, at the beginning"
    if placement.shift_s:
        where += f", {placement.shift_s:g} s later"
    form = "float32, nothing clipped" if as_float else "16 bits"
    return (
        f"adding {run.workdir / 'perturbation.wav'} ({length_s:.3g} s, gain "
        f"{run.gain:.3g}) {where}; cut to shorter recordings; written as {form}"
    )


def _line(
    job: Job,
    applied: Applied,
    words: tuple[str, str] | None,
    num_samples: int,
    run: StoredRun,
    placement: Placement,
) -> str:
    length_s = applied.num_samples / applied.sample_rate_hz
    share = length_s * run.sample_rate_hz / num_samples
    if not placement.repeats:
        share = min(share, 1.0)
    channels = f"{applied.num_channels} channel{'s' * (applied.num_channels != 1)}"
    line = (
        f"{job.name}: {applied.sample_rate_hz} Hz, {channels}, "
        f"{length_s:.3g} s, the sound {share:.3g} times; "
        f"{_format_levels(*applied.measured[:2])}; "
        f"{applied.measured.num_clipped} samples beyond full scale"
    )
    return line if words is None else f'{line}; "{words[0]}" -> "{words[1]}"'


def _totals(
    done: list[tuple[Applied, tuple[str, str] | None]], wanted: str | None
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
    pairs = [words for _, words in done if words is not None]
    if pairs:
        changed = sum(
            before != after and store.NOT_FINITE not in (before, after)
            for before, after in pairs
        )
        line = f"{changed} of {len(pairs)} predictions changed"
        if wanted is not None:
            before, after = (
                sum(word == wanted for word in words)
                for words in zip(*pairs, strict=True)
            )
            line += f'; "{wanted}" for {after}, without the sound {before}'
        yield line


def _format_levels(snr_db: float, snr_ac_db: float, which: str = "") -> str:
    if math.isnan(snr_db):
        return f"{which}SNR n/a"
    return (
        f"{which}SNR {snr_db:.1f} dB with the resting level, {snr_ac_db:.1f} dB without"
    )
