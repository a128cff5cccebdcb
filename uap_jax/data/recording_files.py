"""Which files of a folder are recordings."""

import os
from collections import Counter
from collections.abc import Iterator

# Of one folder that links lead to: among folders that link to each other there are
# more ways than can be walked.
_MAX_WAYS = 16
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
    out; links are followed, though not in circles, nor on more than 16 ways to one
    folder.

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


def as_unicode(text: str) -> str:
    """Replaces bytes that are no UTF-8, which old archives have in names."""
    return os.fsencode(text).decode("utf-8", "replace")


def _walk(root: str | os.PathLike[str]) -> Iterator[str]:
    """Yields the paths of all files in a folder, hidden ones left out."""
    ways: Counter[tuple[int, int]] = Counter()
    # Paths from the root on, the real folders above, and whether a link leads there.
    pending: list[tuple[str, tuple[tuple[int, int], ...], bool]] = [("", (), False)]
    while pending:
        prefix, above, linked = pending.pop()
        folder = os.path.join(root, prefix)
        status = os.stat(folder)
        real = status.st_dev, status.st_ino
        ways[real] += linked
        if real in above or (linked and ways[real] > _MAX_WAYS):
            continue
        with os.scandir(folder) as scanned:
            entries = [entry for entry in scanned if not entry.name.startswith(".")]
        for entry in sorted(entries, key=lambda entry: entry.name):
            is_link = entry.is_symlink()
            # Of a link that leads to itself, is_dir() raises.
            if os.path.isdir(entry.path) if is_link else entry.is_dir():
                inner = f"{prefix}{entry.name}/"
                pending.append((inner, (*above, real), linked or is_link))
            else:
                yield prefix + entry.name
