"""Downloads in as many parts as needed, checked by a checksum."""

import contextlib
import hashlib
import http.client
import json
import math
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from uap_jax import files
from uap_jax.data.dataset import ProgressFn
from uap_jax.data.download.archives import ARCHIVES, Archive
from uap_jax.data.download.unpacking import (
    UNPACKED_RATIO,
    DownloadError,
    Installed,
    check_space,
    find,
    unpack,
)

_BLOCK_BYTES = 1 << 20
_MAX_WAIT_S = 60.0
# Errors after which a server may answer another request.
_PASSING_STATUS = (408, 425, 429, 500, 502, 503, 504)


class _BrokenError(Exception):
    """A connection that broke or was refused, but may work next time."""


def install(
    name: str,
    data_dir: str | os.PathLike[str],
    *,
    url: str | None = None,
    timeout_s: float = 30.0,
    num_tries: int = 5,
    wait_s: float = 1.0,
    progress: ProgressFn | None = None,
    on_retry: Callable[[str], None] | None = None,
) -> Installed:
    """Downloads a corpus and unpacks it; resumes an interrupted download.

    The archive stays in `data_dir`, named `*.part` while incomplete; an existing one is
    used. A part is continued if the server still has the same file, by its ETag, date,
    or the reference checksum. Archives that lead out of their folder are refused.

    Args:
        name: One of `ARCHIVES`.
        data_dir: The folder for it, made if needed.
        url: Another address of the same archive.
        timeout_s: Longest silence of the server.
        num_tries: Tries without a new byte before giving up.
        wait_s: Time before the second try, doubled before each further one.
        progress: Called as progress(what, done, total) in bytes; a total of 0 is
            not known.
        on_retry: Called with the reason of each further try.

    Raises:
        ValueError: A name or address is wrong, the folder is not ours, or the disk has
            no room.
        InUseError: Another process downloads the corpus to this folder.
        DownloadError: The server does not give the archive, or it is not the one
            expected, damaged, or dangerous.
        OSError: A file cannot be written.
    """
    if name not in ARCHIVES:
        raise ValueError(f"name: expected one of {', '.join(ARCHIVES)}, got {name!r}")
    archive, report = ARCHIVES[name], progress or (lambda *_: None)
    url = url or archive.url
    if not re.fullmatch(r"https?://[^/\s]+(/\S*)?", url):
        raise ValueError(f"url: expected http:// or https:// and a host, got {url!r}")
    data_dir = Path(data_dir)
    folder = data_dir / name
    if installed := find(folder):
        return installed
    with files.locked(data_dir, wait=False, name=f".{name}.lock"):
        # Another process may have installed it before this one had the lock.
        if installed := find(folder):
            return installed
        path = data_dir / archive.file_name
        if path.exists():
            checksum = _check(archive, path, report)
        else:
            part = part_path(name, data_dir)
            failures, most = 0, _size(part)
            while True:
                try:
                    _fetch(archive, url, part, timeout_s, report)
                    break
                except _BrokenError as error:
                    size = _size(part)
                    failures = 0 if size > most else failures + 1
                    most = max(most, size)
                    if failures >= num_tries:
                        raise DownloadError(
                            f"{url}: {error}; {num_tries} tries brought nothing new, "
                            f"{size} bytes are in {part}"
                        ) from None
                    pause_s = min(wait_s * 2 ** max(0, failures - 1), _MAX_WAIT_S)
                    if on_retry is not None:
                        on_retry(f"{error}; trying again in {pause_s:g} s")
                    time.sleep(pause_s)
            try:
                checksum = _check(archive, part, report)
            except DownloadError:
                # No missing bytes could make it right.
                _remove(part)
                raise
            os.replace(part, path)
            _remove(part)
        return unpack(path, folder, checksum, archive.checksum is not None, report)


def part_path(name: str, data_dir: str | os.PathLike[str]) -> Path:
    """Returns the path of an incomplete archive."""
    return Path(data_dir) / f"{ARCHIVES[name].file_name}.part"


def _fetch(
    archive: Archive, url: str, part: Path, timeout_s: float, progress: ProgressFn
) -> None:
    """Gets the missing bytes, as far as the connection holds."""
    done, tag, total = _size(part), "", None
    if done:
        # Lost, or torn with the process that wrote them.
        with contextlib.suppress(FileNotFoundError, ValueError):
            tag, total = json.loads(_notes(part).read_text())
        if done == total:
            return
    headers = {"User-Agent": "uap_jax", "Accept-Encoding": "identity"}
    if done and (tag or archive.checksum):
        headers["Range"] = f"bytes={done}-"
        if tag:
            headers["If-Range"] = tag
    try:
        with _connection():
            request = urllib.request.Request(url, headers=headers)
            response = urllib.request.urlopen(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        error.close()
        reason = f"HTTP {error.code} {error.reason}"
        if error.code == 416:
            _remove(part)
        elif error.code not in _PASSING_STATUS:
            raise DownloadError(f"{url}: {reason}") from None
        raise _BrokenError(reason) from None
    with response:
        headers = response.headers
        if response.status != 206:
            done = 0
        elif not (headers["Content-Range"] or "").startswith(f"bytes {done}-"):
            _remove(part)
            raise _BrokenError("the server sent another part than asked for")
        length = headers["Content-Length"]
        total = done + int(length) if length else None
        if archive.num_bytes and total not in (None, archive.num_bytes):
            raise DownloadError(
                f"{url}: expected {archive.num_bytes} bytes, the server has {total}"
            )
        if total:
            check_space(part.parent, total - done + UNPACKED_RATIO * total)
        _receive(response, part, done, total, progress)


def _receive(
    response: Any, part: Path, done: int, total: int | None, progress: ProgressFn
) -> None:
    tag = response.headers["ETag"] or ""
    # A weak tag does not promise the same bytes.
    if not tag or tag.startswith("W/"):
        tag = response.headers["Last-Modified"] or ""
    with files.naming(part), open(part, "ab" if done else "wb") as file:
        _notes(part).write_text(json.dumps([tag, total]))
        while total is None or done < total:
            with _connection():
                # Not read(), which would lose what came before a break.
                block = response.read1(min((total or math.inf) - done, _BLOCK_BYTES))
            if not block:
                break
            file.write(block)
            done += len(block)
            progress("downloading", done, total or 0)
    if total and done < total:
        raise _BrokenError(f"cut off after {done} of {total} bytes")


@contextlib.contextmanager
def _connection() -> Generator[None, None, None]:
    """Turns errors of a connection into `_BrokenError`, but for the server's status."""
    try:
        yield
    except urllib.error.HTTPError:
        raise
    except http.client.IncompleteRead:
        raise _BrokenError("cut off") from None
    except (OSError, http.client.HTTPException) as error:
        reason = str(getattr(error, "reason", error)) or type(error).__name__
        raise _BrokenError(reason) from None


def _notes(part: Path) -> Path:
    """Returns the file with the server's tag of an incomplete archive, and its size."""
    return part.with_name(f"{part.name}.notes")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _remove(part: Path) -> None:
    part.unlink(missing_ok=True)
    _notes(part).unlink(missing_ok=True)


def _check(archive: Archive, path: Path, progress: ProgressFn) -> str:
    """Returns the checksum of an archive; refuses one that is not the reference."""
    algorithm = archive.checksum.partition(":")[0] if archive.checksum else "sha256"
    total = path.stat().st_size
    progress("checking", 0, total)
    with open(path, "rb") as file:
        digest = hashlib.file_digest(
            file, lambda: hashlib.new(algorithm, usedforsecurity=False)
        )
    progress("checking", total, total)
    checksum = f"{algorithm}:{digest.hexdigest()}"
    if archive.checksum not in (None, checksum):
        raise DownloadError(f"{path}: expected {archive.checksum}, got {checksum}")
    return checksum
