"""What launchers say: lines, a status line on a terminal, errors in one line."""

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

from uap_jax.audio.files import printable
from uap_jax.errors import UsageError
from uap_jax.text import format_seconds


class Console:
    """Lines to standard output, with a passing status line where it is a terminal."""

    def __init__(self) -> None:
        self._is_terminal = sys.stdout.isatty()
        self._has_status = False
        self._last_status = 0.0
        self._started: dict[str, float] = {}

    def say(self, line: str) -> None:
        """Writes a line that stays; it may hold the name of any file."""
        self._clear_status()
        print(printable(line), flush=True)

    def status(self, line: str) -> None:
        """Shows a line until the next; nothing where output is not a terminal."""
        now = time.monotonic()
        if not self._is_terminal or now - self._last_status < 0.1:
            return
        self._last_status = now
        self._clear_status()
        width = os.get_terminal_size().columns - 1
        print(line[:width], end="", flush=True)
        self._has_status = True

    def progress(self, what: str, done: int, total: int) -> None:
        """A `ProgressFn`: shows how far a piece of work is and how long it takes."""
        now = time.monotonic()
        started = self._started.setdefault(what, now)
        if done >= total:
            self._clear_status()
            del self._started[what]
            return
        left = (now - started) * (total - done) / done if done else 0.0
        self.status(f"{what} {done}/{total}, {format_seconds(left)} left")

    def _clear_status(self) -> None:
        if self._has_status:
            print("\r\x1b[K", end="", flush=True)
            self._has_status = False


def run_app(main: Callable[[], int]) -> None:
    """Parses flags, runs a launcher and leaves with its exit code.

    0 done, 1 a fault, 2 the user's mistake (in one line), 130 interrupted.
    """
    from absl import app, flags, logging

    # JAX tells of every platform it does not find, Orbax of every file it touches; what
    # matters of it also comes as an exception.
    logging.set_verbosity(logging.FATAL)
    # A fault in a thread that writes a file also reaches the main one.
    threading.excepthook = lambda _: None
    # So does what Orbax was still waiting for when it found a damaged file.
    sys.unraisablehook = lambda _: None

    def parse(argv: list[str]) -> list[str]:
        try:
            try:
                rest = flags.FLAGS(argv)
            except SystemExit:
                # Only --help leaves this way, and with a code as of an error.
                sys.exit(0)
            if len(rest) > 1:
                raise UsageError(f"unexpected argument {rest[1]!r}")
        except (flags.Error, UsageError) as error:
            _fail(str(error), 2)
        return rest

    def run(_: list[str]) -> None:
        try:
            sys.exit(main())
        except UsageError as error:
            _fail(str(error), 2)
        except OSError as error:
            reason = error.strerror or str(error)
            _fail(f"{error.filename}: {reason}" if error.filename else reason, 2)
        except FloatingPointError as error:
            _fail(str(error), 1)
        except KeyboardInterrupt:
            _fail("interrupted; the same command goes on from here", 130)

    app.run(run, flags_parser=parse)


def _fail(line: str, code: int) -> NoReturn:
    line = printable(" ".join(line.split()))
    print(f"error: {line}", file=sys.stderr, flush=True)
    sys.exit(code)
