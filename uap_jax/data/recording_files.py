"""Which files of a folder are recordings."""

import os
from collections import Counter
from collections.abc import Iterator

# What is meant as a recording, also where it cannot be read: that should be told.
_AUDIO = frozenset(
    (
        *(".aac", ".aif", ".aifc", ".aiff", ".amr", ".ape", ".au", ".caf", ".flac"),
        *(".m4a", ".mp2", ".mp3", ".nist", ".oga", ".ogg", ".opus", ".rf64", ".snd"),
        *(".sph", ".voc", ".w64", ".wav", ".wave", ".webm", ".wma", ".wv"),
    )
)


def list_recordings(root: str | os.PathLike[str]) -> tuple[list[str], Counter[str]]:
    """Lists the recordings of a folder and of those in it, at any depth.

    What is a recording is told by the suffix. Names that begin with a dot are left
    out; links are followed, though not in circles.

    Args:
        root: The folder.

    Returns:
        The paths from the folder on, sorted, and how many other files there are of
        each suffix, in the order of their paths.

    Raises:
        OSError: A folder cannot be read.
    """
    paths = []
    others: Counter[str] = Counter()
    for path in sorted(_walk(root)):
        suffix = os.path.splitext(path)[1].lower()
        if suffix in _AUDIO:
            paths.append(path)
        else:
            others[suffix or "without suffix"] += 1
    return paths, others


def printable(text: str) -> str:
    """Replaces bytes that are no UTF-8, which old archives have in names."""
    return os.fsencode(text).decode("utf-8", "replace")


def _walk(folder: str | os.PathLike[str], above: tuple[str, ...] = ()) -> Iterator[str]:
    """Yields the paths of all files in a folder, hidden ones left out."""
    real = os.path.realpath(folder)
    if real in above:
        return
    with os.scandir(folder) as scanned:
        entries = [entry for entry in scanned if not entry.name.startswith(".")]
    for entry in entries:
        # Of a link that leads to itself, is_dir() raises.
        if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
            for path in _walk(entry.path, (*above, real)):
                yield f"{entry.name}/{path}"
        else:
            yield entry.name
