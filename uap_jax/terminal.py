"""Standard output: text, and a bar on a terminal or a line now and then elsewhere."""

import io
import os
import signal
import sys
import threading
from typing import NoReturn

from tqdm.std import tqdm

# Between two lines on progress where output is no terminal.
PLAIN_EVERY_S = 30.0


class _Bar(tqdm):
    # No thread that wakes up for bars which do not move.
    monitor_interval = 0


class _Lines(_Bar):
    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        if msg is None:
            write(f"{self}\n")


_Bar.set_lock(threading.RLock())
_bar: _Bar | None = None


def write(text: str) -> None:
    """Writes text; the bar moves on below."""
    on_terminal = _bar is not None and not isinstance(_bar, _Lines)
    if on_terminal:
        _bar.clear()
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        leave_pipe()
    if on_terminal:
        _bar.refresh()


def leave_pipe() -> NoReturn:
    """Exits quietly where the reader of the output, such as head, has."""
    # Or the interpreter would complain about what it cannot flush.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(128 + signal.SIGPIPE)


def show_progress(what: str, done: int, total: int, *, in_bytes: bool = False) -> None:
    """Shows that `done` of `total` is done, a total of 0 being unknown.

    A process has one bar; other work, or work that starts over, begins a new one.
    """
    global _bar  # noqa: PLW0603
    if _bar is not None and (_bar.desc != what or done < _bar.n):
        end_progress()
    if 0 < total <= done:
        end_progress()
        return
    if _bar is None:
        _bar = _open(what, done, total, in_bytes)
    _bar.update(done - _bar.n)


def end_progress() -> None:
    """Erases the bar, also before standard error is written to."""
    global _bar  # noqa: PLW0603
    if _bar is not None:
        _bar.close()
        _bar = None


def _open(what: str, done: int, total: int, in_bytes: bool) -> _Bar:
    # One that can erase a line.
    on_terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    text = "{n_fmt}{unit}, {elapsed}" if in_bytes else ""
    if total:
        bar = "|{bar:20}| " if on_terminal else ""
        text = f"{bar}{{n_fmt}}/{{total_fmt}}{{unit}}, {{remaining}} left"
    make = _Bar if on_terminal else _Lines
    return make(
        desc=what,
        initial=done,
        total=total or None,
        unit="B" if in_bytes else "",
        unit_scale=in_bytes,
        bar_format=f"{{desc}} {text}",
        miniters=1,
        mininterval=0.1 if on_terminal else PLAIN_EVERY_S,
        delay=0 if on_terminal else PLAIN_EVERY_S,
        dynamic_ncols=on_terminal,
        leave=False,
        file=sys.stdout if on_terminal else io.StringIO(),
    )
