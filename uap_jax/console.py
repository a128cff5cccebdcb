"""What launchers say: lines, progress, errors in one line.

Whatever else is logged, by JAX and Orbax too, and every traceback goes to a log file.
"""

import atexit
import io
import logging
import os
import shutil
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, Self

from absl import app, flags

from uap_jax import terminal
from uap_jax.errors import UsageError
from uap_jax.text import printable

# A launcher's exit code where all is done, but logits of clips are not finite.
NON_FINITE_EXIT = 3


class Console:
    """Lines to standard output and a log.

    Args:
        outer: Another console; lines then go to the log only.
    """

    def __init__(self, outer: Self | None = None) -> None:
        self._outer = outer
        self.log_path: Path | None = None

    def log_to(self, path: Path) -> None:
        """Appends lines and tracebacks to a file too, from now on."""
        self.log_path = path
        if self._outer is None:
            _records.write_to(path)

    def say(self, line: str) -> None:
        """Writes a line that stays; it may hold the name of any file."""
        self.log(line)
        if self._outer is None:
            terminal.write(f"{printable(line)}\n")

    def announce(self, line: str) -> None:
        """Writes a line as `say`, on the outer console too."""
        self.say(line)
        if self._outer is not None:
            self._outer.say(line)

    def log(self, line: str) -> None:
        """Writes a line to the log only."""
        if self.log_path is not None:
            with self.log_path.open("a", errors="backslashreplace") as file:
                file.write(f"{line}\n")

    def fault(self, error: BaseException) -> str:
        """Logs a traceback; returns what went wrong in one line."""
        try:
            self.log("".join(traceback.format_exception(error)))
        except OSError:  # such as a full disk, which may be the fault itself
            return one_line(error)
        return one_line(error)

    def progress(
        self, what: str, done: int, total: int, *, in_bytes: bool = False
    ) -> None:
        """A `ProgressFn`: shows how far a piece of work is and the time it takes."""
        terminal.show_progress(printable(what), done, total, in_bytes=in_bytes)


def one_line(error: BaseException) -> str:
    """Returns what went wrong in one line."""
    text = " ".join(str(error).split())[:1000]
    if isinstance(error, UsageError) and text:
        return text
    if isinstance(error, OSError) and error.strerror:
        reason = error.strerror
        return f"{error.filename}: {reason}" if error.filename else reason
    name = type(error).__name__
    return f"{name}: {text}" if text else name


def run_app(main: Callable[..., int], *, max_arguments: int = 0) -> None:
    """Parses flags, runs a launcher and exits with its code.

    0 done, 1 a fault, 2 the user's mistake (in one line), 3 done, but the classifier's
    logits of some clips are not finite, 130 interrupted. The line on a fault names the
    log file with its traceback.

    Args:
        main: Takes the arguments that are no flags, returns the exit code.
        max_arguments: How many of them there may be.
    """

    def run(argv: list[str]) -> None:
        _records.install()
        arguments = argv[1:]
        try:
            if len(arguments) > max_arguments:
                raise UsageError(f"unexpected argument {arguments[max_arguments]!r}")
            code = main(*arguments)
            terminal.end_progress()
        except UsageError as error:
            _fail(one_line(error), 2)
        except KeyboardInterrupt:
            _fail("interrupted; run the same command to resume", 130)
        except Exception as error:
            # A file that cannot be read or written is the user's to mend.
            code = 2 if isinstance(error, OSError) and error.filename else 1
            logging.getLogger("uap_jax").error("fault", exc_info=error)
            _fail(f"{one_line(error)} (log: {_records.path()})", code)
        if _records.in_background is not None:
            terminal.end_progress()
            line = f"{_records.in_background} in the background"
            print(f"warning: {line} (log: {_records.path()})", file=sys.stderr)
        sys.exit(code)

    _open_output()
    _free_libraries()
    app.run(run, flags_parser=_parse)


def _open_output() -> None:
    """Makes output take any text, and none where it is closed."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _free_libraries() -> None:
    """Frees libraries from what they expect of the user's environment."""
    # A notebook's, which draws in it.
    os.environ["MPLBACKEND"] = "agg"
    home = os.path.expanduser("~")
    if not os.path.isabs(home):  # The user has none; librosa asks for its name only.
        home = os.environ["HOME"] = "/"
    if not os.access(home, os.W_OK):
        folder = tempfile.mkdtemp(prefix="uap_jax-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        # Where Numba, which librosa uses, and Matplotlib cache.
        for name in ("NUMBA_CACHE_DIR", "MPLCONFIGDIR"):
            os.environ.setdefault(name, folder)


def _parse(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        _fail(str(error), 2)
    except BrokenPipeError:
        terminal.leave_pipe()
    except SystemExit:
        # --help leaves with a code as of an error.
        sys.exit(0)


def _fail(line: str, code: int) -> NoReturn:
    terminal.end_progress()
    line = printable(" ".join(line.split()))
    print(f"error: {line}", file=sys.stderr, flush=True)
    sys.exit(code)


class _Records(logging.Handler):
    """Keeps log records until it is known to which file they go."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
        self.in_background: str | None = None
        self._path: Path | None = None
        self._waiting: list[str] = []

    def install(self) -> None:
        """Takes all that is logged, warned, or raised where nobody catches it."""
        logging.root.handlers[:] = [self]
        logging.captureWarnings(True)
        warnings.simplefilter("default")
        threading.excepthook = self._in_thread
        sys.unraisablehook = self._unraisable

    def write_to(self, path: Path) -> None:
        """Appends to a file what was logged and will be."""
        self._path = path
        waiting, self._waiting = self._waiting, []
        for text in waiting:
            self._write(text)

    def path(self) -> Path:
        """Returns the log file, a temporary one if none was named."""
        if self._path is None:
            descriptor, name = tempfile.mkstemp(prefix="uap_jax-", suffix=".log")
            os.close(descriptor)
            self.write_to(Path(name))
        return self._path or Path(os.devnull)

    def emit(self, record: logging.LogRecord) -> None:
        if (record.name, record.levelno) == ("uap_jax", logging.WARNING):
            terminal.end_progress()
            print(f"warning: {printable(record.getMessage())}", file=sys.stderr)
        self._write(self.format(record))

    def _write(self, text: str) -> None:
        if self._path is None:
            self._waiting.append(text)
            return
        try:
            with self._path.open("a", errors="backslashreplace") as file:
                file.write(f"{text}\n")
        except OSError:  # the folder is full or gone; a temporary file may do
            self._path = None
            self._waiting.append(text)

    def _in_thread(self, hook: threading.ExceptHookArgs) -> None:
        self._log_background(hook.exc_value)

    def _unraisable(self, hook: "sys.UnraisableHookArgs") -> None:
        self._log_background(hook.exc_value)

    def _log_background(self, error: BaseException | None) -> None:
        logging.getLogger("uap_jax").error("in the background", exc_info=error)
        self.in_background = one_line(error) if error is not None else "a fault"


_records = _Records()
