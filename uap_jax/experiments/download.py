"""Downloads a corpus, checks it and unpacks it.

    python -m uap_jax.experiments.download speech_commands_v0.02 --data_dir=DIR

The same command resumes an interrupted download, and does nothing if all is there.
"""

import functools
import shlex
import sys
import time

from absl import flags

from uap_jax.console import Console, run_app
from uap_jax.data.download import ARCHIVES, DownloadError, install, part_path
from uap_jax.errors import UsageError, user_mistakes
from uap_jax.files import expanded
from uap_jax.text import format_seconds

CORPUS = flags.DEFINE_enum(
    "corpus", None, tuple(ARCHIVES), "What to download; --corpus= may be left out."
)
DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Folder for the archive, and for a folder with its content."
)
URL = flags.DEFINE_string("url", None, "Another address of the same archive.")


def main(*arguments: str) -> int:
    names = [name for name in (CORPUS.value, *arguments) if name is not None]
    if len(names) != 1 or names[0] not in ARCHIVES:
        got = ", ".join(names) or "none"
        raise UsageError(f"expected a corpus, one of {', '.join(ARCHIVES)}, got {got}")
    if DATA_DIR.value is None:
        raise UsageError("--data_dir: expected a folder for the archive, got none")
    name, data_dir = names[0], expanded(DATA_DIR.value)
    archive, part = ARCHIVES[name], part_path(name, data_dir)
    console = Console()
    console.say(f"{name} from {URL.value or archive.url}, licence {archive.licence}")
    if part.exists():
        console.say(f"resuming after {part.stat().st_size / 1e6:.1f} MB in {part}")
    started = time.monotonic()
    try:
        with user_mistakes():
            corpus = install(
                name,
                data_dir,
                url=URL.value,
                progress=functools.partial(console.progress, in_bytes=True),
                on_retry=console.say,
            )
    except DownloadError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if part.exists():
            console.say(f"{part.stat().st_size / 1e6:.1f} MB stay in {part}")
        raise
    if corpus.is_new:
        took = format_seconds(time.monotonic() - started)
        console.say(f"unpacked {corpus.num_files} files into {corpus.folder} in {took}")
        checked = "as expected" if corpus.is_checked else "no reference available"
        console.say(f"the archive's checksum is {corpus.checksum}, {checked}")
        console.say(f"{data_dir / archive.file_name} is no longer needed")
    else:
        console.say(f"nothing to do: {corpus.folder} holds {corpus.num_files} files")
    use = (f"--dataset={archive.dataset}", f"--data_dir={corpus.folder.resolve()}")
    console.say(f"use it with {shlex.join(use)}")
    return 0


if __name__ == "__main__":
    run_app(main, max_arguments=1)
