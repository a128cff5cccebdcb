"""Downloads in as many parts as needed, checked by a checksum."""

import contextlib
import dataclasses
import functools
import hashlib
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
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
    used. Unpacked it becomes the folder `name`, completely or not at all.

    A part is continued if the server supports that and still has the same file, by its
    ETag, date, or the reference checksum; otherwise the download starts over. Archives
    whose files, links or devices lead out of the folder are refused.

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
    archive = ARCHIVES[name]
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
            checksum = _check(archive, path, progress)
        else:
            part = _Part(archive, url, part_path(name, data_dir))
            _fetch(part, timeout_s, num_tries, wait_s, progress, on_retry)
            try:
                checksum = _check(archive, part.path, progress)
            except DownloadError:
                # No missing bytes could make it right.
                part.remove()
                raise
            os.replace(part.path, path)
            part.remove()
        return unpack(path, folder, checksum, archive.checksum is not None, progress)


def part_path(name: str, data_dir: str | os.PathLike[str]) -> Path:
    """Returns the path of an incomplete archive."""
    return Path(data_dir) / f"{ARCHIVES[name].file_name}.part"


@dataclasses.dataclass(frozen=True)
class _Part:
    """An incomplete archive; its notes hold the server's tag of it and its size."""

    archive: Archive
    url: str
    path: Path

    @property
    def notes(self) -> Path:
        return self.path.with_name(f"{self.path.name}.notes")

    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self.notes.unlink(missing_ok=True)


def _fetch(
    part: _Part,
    timeout_s: float,
    num_tries: int,
    wait_s: float,
    progress: ProgressFn | None,
    on_retry: Callable[[str], None] | None,
) -> None:
    failures, most = 0, part.size()
    while True:
        try:
            return _fetch_rest(part, timeout_s, progress)
        except _BrokenError as error:
            size = part.size()
            failures = 0 if size > most else failures + 1
            most = max(most, size)
            if failures >= num_tries:
                raise DownloadError(
                    f"{part.url}: {error}; {num_tries} tries brought nothing new, "
                    f"{size} bytes are in {part.path}"
                ) from None
            pause_s = min(wait_s * 2 ** max(0, failures - 1), _MAX_WAIT_S)
            if on_retry is not None:
                on_retry(f"{error}; trying again in {pause_s:g} s")
            time.sleep(pause_s)


def _fetch_rest(part: _Part, timeout_s: float, progress: ProgressFn | None) -> None:
    """Gets the missing bytes, as far as the connection holds."""
    done = part.size()
    tag, total = "", None
    if done:
        # Lost, or torn with the process that wrote them.
        with contextlib.suppress(FileNotFoundError, ValueError):
            tag, total = json.loads(part.notes.read_text())
    if done and done == total:
        return
    headers = {"User-Agent": "uap_jax", "Accept-Encoding": "identity"}
    if done and (tag or part.archive.checksum):
        headers["Range"] = f"bytes={done}-"
        if tag:
            headers["If-Range"] = tag
    request = urllib.request.Request(part.url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        error.close()
        reason = f"HTTP {error.code} {error.reason}"
        if error.code == 416:
            part.remove()
        elif error.code not in _PASSING_STATUS:
            raise DownloadError(f"{part.url}: {reason}") from None
        raise _BrokenError(reason) from None
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenError(_reason(error)) from None
    with response:
        _receive(part, response, done, progress)


def _receive(
    part: _Part, response: Any, done: int, progress: ProgressFn | None
) -> None:
    headers = response.headers
    if response.status != 206:
        done = 0
    elif not (headers["Content-Range"] or "").startswith(f"bytes {done}-"):
        part.remove()
        raise _BrokenError("the server sent another part than asked for")
    length = headers["Content-Length"]
    total = done + int(length) if length else None
    if part.archive.num_bytes and total not in (None, part.archive.num_bytes):
        raise DownloadError(
            f"{part.url}: expected {part.archive.num_bytes} bytes, the server has "
            f"{total}"
        )
    if total:
        check_space(part.path.parent, total - done + UNPACKED_RATIO * total)
    tag = headers["ETag"] or ""
    # A weak tag does not promise the same bytes.
    if not tag or tag.startswith("W/"):
        tag = headers["Last-Modified"] or ""
    with files.naming(part.path), open(part.path, "ab" if done else "wb") as file:
        part.notes.write_text(json.dumps([tag, total]))
        while total is None or done < total:
            block = _read(response, total - done if total else _BLOCK_BYTES)
            if not block:
                break
            file.write(block)
            done += len(block)
            if progress is not None:
                progress("downloading", done, total or 0)
    if total and done < total:
        raise _BrokenError(f"cut off after {done} of {total} bytes")


def _read(response: Any, num_bytes: int) -> bytes:
    # Apart from writing, whose errors are not the connection's.
    try:
        # Not read(), which would lose what came before a break.
        return response.read1(min(num_bytes, _BLOCK_BYTES))
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenError(_reason(error)) from None


def _reason(error: Exception) -> str:
    if isinstance(error, http.client.IncompleteRead):
        return "cut off"
    return str(getattr(error, "reason", error)) or type(error).__name__


def _check(archive: Archive, path: Path, progress: ProgressFn | None) -> str:
    """Returns the checksum of an archive; refuses one that is not the reference."""
    algorithm = archive.checksum.partition(":")[0] if archive.checksum else "sha256"
    total = path.stat().st_size
    if progress is not None:
        progress("checking", 0, total)
    with open(path, "rb") as file:
        digest = hashlib.file_digest(
            file, functools.partial(hashlib.new, algorithm, usedforsecurity=False)
        )
    if progress is not None:
        progress("checking", total, total)
    checksum = f"{algorithm}:{digest.hexdigest()}"
    if archive.checksum not in (None, checksum):
        raise DownloadError(f"{path}: expected {archive.checksum}, got {checksum}")
    return checksum
