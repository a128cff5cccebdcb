"""Downloads a corpus, checks it and unpacks it.

    python -m uap_jax.experiments.download speech_commands_v0.02 --data_dir=DIR

The same command goes on where it was stopped, and does nothing where all is there.
"""

import shlex
import sys
import time
from pathlib import Path

from absl import flags

from uap_jax.console import Console, run_app
from uap_jax.data.download import ARCHIVES, DownloadError, install, part_path
from uap_jax.errors import UsageError, user_mistakes
from uap_jax.text import format_seconds

CORPUS = flags.DEFINE_enum(
    "corpus", None, tuple(ARCHIVES), "What to download; may stand without --corpus=."
)
DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Where the archive goes, and a folder with what is in it."
)
URL = flags.DEFINE_string("url", None, "Another address of the same archive.")


def main(name: str | None = None) -> int:
    name, data_dir = name or CORPUS.value, DATA_DIR.value
    if name is None:
        raise UsageError(f"expected a corpus, one of {', '.join(ARCHIVES)}, got none")
    if data_dir is None:
        raise UsageError("--data_dir: expected a folder for the archive, got none")
    if name not in ARCHIVES:
        expected = ", ".join(ARCHIVES)
        raise UsageError(f"expected a corpus, one of {expected}, got {name!r}")
    archive = ARCHIVES[name]
    console = Console()
    console.say(f"{name} from {URL.value or archive.url}, licence {archive.licence}")
    part = part_path(name, data_dir)
    if part.exists():
        console.say(f"going on after {part.stat().st_size / 1e6:.1f} MB in {part}")
    started = time.monotonic()
    try:
        with user_mistakes():
            found = install(
                name,
                data_dir,
                url=URL.value,
                progress=_Progress(console),
                on_retry=console.say,
            )
    except DownloadError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if part.exists():
            console.say(f"{part.stat().st_size / 1e6:.1f} MB stay in {part}")
        raise
    if found.is_new:
        took = format_seconds(time.monotonic() - started)
        console.say(f"unpacked {found.num_files} files into {found.folder} in {took}")
        known = "as it should be" if found.is_checked else "none is known to compare"
        console.say(f"the archive's checksum is {found.checksum}, {known}")
        console.say(f"{Path(data_dir) / archive.file_name} is not needed any more")
    else:
        console.say(f"nothing to do: {found.folder} holds {found.num_files} files")
    use = (f"--dataset={archive.dataset}", f"--data_dir={found.folder.resolve()}")
    console.say(f"use it with {shlex.join(use)}")
    return 0


class _Progress:
    """A `ProgressFn` of bytes that knows of the bytes of an earlier try."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._first: dict[str, tuple[int, float]] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        first, started = self._first.setdefault(what, (done, now))
        if done < first:  # The server had it begin again.
            self._first[what] = first, started = done, now
        text = f"{what} {done / 1e6:.1f} MB"
        if total:
            text += f" of {total / 1e6:.1f}"
        if total and done > first:
            left = (now - started) * (total - done) / (done - first)
            text += f", {format_seconds(left)} left"
        self._console.status(text)


if __name__ == "__main__":
    run_app(main, max_arguments=1)
