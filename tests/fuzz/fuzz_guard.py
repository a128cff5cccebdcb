"""Whether calls on damaged files end as they may, in time, and change nothing else."""

import contextlib
import faulthandler
import hashlib
import os
import signal
import stat
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from uap_jax.audio.files import AudioFileError
from uap_jax.bridges.checks import ClassifierError
from uap_jax.errors import UsageError

# What the library may raise. By exact type: a UnicodeError is a ValueError too.
LIBRARY_ERRORS = (ValueError, AudioFileError, ClassifierError)
# What launchers turn into one line, see `console.run_app`.
LAUNCHER_ERRORS = (UsageError, FloatingPointError)


class HangError(BaseException):
    """A call took too long; no Exception, so that nothing takes it for one."""


class Outcomes:
    """Calls on damaged files, counted as "done" or "refused"; faults by text."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []

    def add(
        self,
        case: object,
        call: Callable[[], Any],
        *,
        allowed: tuple[type[Exception], ...],
        naming: tuple[str, ...] = (),
        limit_s: float = 10.0,
    ) -> str:
        """Makes a call that may raise `allowed` errors, or an OSError naming a file.

        Returns "done", "refused" or "fault". The error's text holds one of `naming`.
        """
        try:
            with time_limit(limit_s):
                call()
        except (Exception, HangError) as error:
            fault = _fault_of(error, allowed, naming)
            if fault:
                self.faults.append(f"{case}: {fault}")
            ending = "fault" if fault else "refused"
        else:
            ending = "done"
        self.counts[ending] += 1
        return ending

    def check(self, what: str) -> None:
        """Fails where any call ended as none may; else shows the counts."""
        print(f"{what}: {dict(self.counts)}", file=sys.stderr)
        assert not self.faults, "\n".join([what, *self.faults])


def _fault_of(
    error: BaseException, allowed: tuple[type[Exception], ...], naming: tuple[str, ...]
) -> str:
    """Returns what is wrong with an error, or ""."""
    text = str(error)
    if isinstance(error, OSError):
        return "" if error.filename else f"OSError that names no file: {text[:300]}"
    if type(error) not in allowed:
        return f"{_place(error)}: {type(error).__name__}: {text[:300]}"
    # Of what launchers raise, `console.run_app` makes one line.
    if not text or ("\n" in text and allowed != LAUNCHER_ERRORS):
        return f"not one line: {text[:300]!r}"
    if naming and not any(part in text for part in naming):
        return f"names none of {naming}: {text[:300]}"
    return ""


def _place(error: BaseException) -> str:
    """Returns the innermost line of the package, and of all, that an error is from."""
    places = []
    traceback = error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        places.append(f"{code.co_filename}:{traceback.tb_lineno}")
        traceback = traceback.tb_next
    own = [place for place in places if "uap_jax/" in place and "/tests/" not in place]
    return " <- ".join(dict.fromkeys([places[-1], *own[-1:]]))


@contextlib.contextmanager
def time_limit(limit_s: float) -> Iterator[None]:
    """Raises `HangError` after a time; ends the process where that does not help."""

    def stop(*_: Any) -> None:
        raise HangError(f"not done after {limit_s} s")

    previous = signal.signal(signal.SIGALRM, stop)
    # A call that never returns to Python does not see the signal.
    faulthandler.dump_traceback_later(6 * limit_s, exit=True, file=sys.__stderr__)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, previous)


def snapshot(folder: str | os.PathLike[str]) -> dict[bytes, str]:
    """Returns what is in a folder at any depth: kinds, links, hashes of bytes."""
    found = {}
    pending = [os.fsencode(folder)]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                mode = entry.stat(follow_symlinks=False).st_mode
                content = oct(mode)
                if stat.S_ISDIR(mode):
                    pending.append(entry.path)
                elif stat.S_ISLNK(mode):
                    content += repr(os.readlink(entry.path))
                elif stat.S_ISREG(mode):
                    content += _hash(entry.path)
                found[entry.path] = content
    return found


def _hash(path: bytes) -> str:
    # Sparse files of terabytes are hashed by their beginning and size.
    with open(path, "rb") as file:
        digest = hashlib.sha256(file.read(1 << 20)).hexdigest()
    return f"{digest} {os.stat(path).st_size}"
