"""Where the results for recordings go: never over a recording."""

import os
from pathlib import Path
from typing import NamedTuple

from uap_jax.data.recording_files import list_recordings
from uap_jax.errors import UsageError
from uap_jax.runs.console import Console

_WAV = (".wav", ".wave")
# What file systems allow.
_MAX_NAME_BYTES = 255


class Job(NamedTuple):
    """A recording and where its perturbed form goes."""

    name: str
    source: Path
    target: Path


def plan_file(source: Path, target: Path, overwrite: bool) -> list[Job]:
    """Returns what is to be done for a single recording.

    Raises:
        UsageError: There is no such recording, or its result cannot go there.
    """
    if not source.exists():
        raise UsageError(f"{source}: expected a recording or a folder, got none")
    if target.suffix.lower() not in _WAV:
        raise UsageError(f"{target}: expected a name that ends in .wav for the result")
    if target.is_dir():
        raise UsageError(f"{target}: expected a file for the result, got a folder")
    if _is_same(source, target):
        raise UsageError(f"{target}: expected another file than the recording itself")
    if os.path.lexists(target) and not overwrite:
        raise UsageError(f"{target}: is there already; --overwrite replaces it")
    return [Job(str(source), source, target)]


def plan_folder(
    source: Path, target: Path, overwrite: bool, console: Console
) -> tuple[list[Job], list[tuple[str, str]]]:
    """Returns what is to be done for a folder, and what of it can not be, and why.

    A result that is there already is neither, unless it is to be replaced.

    Raises:
        UsageError: There are no recordings, or the results cannot go there.
    """
    if os.path.lexists(target) and not target.is_dir():
        raise UsageError(f"{target}: expected a folder for the results, got a file")
    if _is_within(target, source) or _is_within(source, target):
        raise UsageError(
            f"{target}: expected a folder outside of {source} that does not hold it"
        )
    names, _ = list_recordings(source)
    if not names:
        raise UsageError(f"{source}: expected recordings, found none")
    # Those that keep their names first.
    names.sort(key=lambda name: not name.lower().endswith(_WAV))
    jobs, unusable = [], []
    taken: dict[Path, str] = {}
    num_there = 0
    for name in names:
        result = target / (name if name.lower().endswith(_WAV) else f"{name}.wav")
        job = Job(name, source / name, result)
        first = taken.setdefault(result, name)
        if first != name:
            unusable.append((name, f"its result would replace that of {first}"))
        elif len(os.fsencode(result.name)) > _MAX_NAME_BYTES:
            unusable.append((name, "its name is too long for .wav to be added"))
        elif _is_within(result.parent, source) or _is_same(job.source, result):
            unusable.append((name, "its result would be among the recordings"))
        elif os.path.lexists(result) and (result.is_dir() or not overwrite):
            num_there += 1
        else:
            jobs.append(job)
    if num_there:
        console.say(
            f"{num_there} results are there already and stay as they are; "
            "--overwrite replaces them"
        )
    return jobs, unusable


def _is_same(one: Path, other: Path) -> bool:
    return other.exists() and os.path.samefile(one, other)


def _is_within(folder: Path, other: Path) -> bool:
    """Returns whether a folder, which need not exist, is another or in it."""
    return folder.resolve().is_relative_to(other.resolve())
