"""Archives become folders: whole or not at all, and nothing outside of them."""

import gzip
import json
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from uap_jax.data.cache import name_full_disk
from uap_jax.data.dataset import ProgressFn

BLOCK_BYTES = 1 << 20
# Unpacked over packed; about 1.4 by the number and the length of the clips in
# `ARCHIVES`.
UNPACKED_RATIO = 1.5
_RECORD = ".archive.json"
# What reading a damaged archive raises, the unusual ones of tarfile and zipfile too.
_DAMAGE = (
    *(tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError),
    *(RuntimeError, ValueError),
)


class DownloadError(Exception):
    """An archive that cannot be had, or not be trusted; one line says why."""


class Installed(NamedTuple):
    """A corpus in its folder.

    Attributes:
        folder: Where it is.
        checksum: Of the archive, as in `Archive`.
        is_checked: Whether that is the known one; otherwise it is only computed.
        num_files: How many files were in the archive.
        is_new: Whether it was unpacked now, or found.
    """

    folder: Path
    checksum: str
    is_checked: bool
    num_files: int
    is_new: bool


def unpack(
    path: Path,
    folder: Path,
    checksum: str,
    is_checked: bool,
    progress: ProgressFn | None,
) -> Installed:
    """Unpacks an archive into a folder that is there whole or not at all.

    Args:
        path: The archive.
        folder: Where its members go; must not be there.
        checksum, is_checked: For the record, see `Installed`.
        progress: As for `download.install`.

    Raises:
        ValueError: The disk has no room.
        DownloadError: The archive is empty, damaged, or dangerous.
        OSError: A file cannot be written.
    """
    prefix = f".{folder.name}.unpacking-"
    # Of processes that were killed: others would hold the lock.
    for leftover in folder.parent.glob(f"{prefix}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    total = path.stat().st_size
    check_space(folder.parent, UNPACKED_RATIO * total)
    temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    try:
        # Within it, since mkdtemp keeps other users out.
        content = temporary / folder.name
        content.mkdir()
        num_files = 0
        for name, stream, done in _members(path):
            target = content / name
            if stream is None:
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with name_full_disk(target), open(target, "wb") as file:
                _copy(path, stream, file)
            num_files += 1
            if progress is not None:
                progress("unpacking", min(done, total - 1), total)
        if not num_files:
            raise DownloadError(f"{path}: holds no files")
        if progress is not None:
            progress("unpacking", total, total)
        installed = Installed(folder, checksum, is_checked, num_files, True)
        record = installed._replace(is_new=False)._asdict() | {"folder": folder.name}
        (content / _RECORD).write_text(json.dumps(record, indent=2) + "\n")
        os.rename(content, folder)
        return installed
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def find(folder: Path) -> Installed | None:
    """Returns what an earlier call left; None where nothing is."""
    try:
        record = json.loads((folder / _RECORD).read_text())
        return Installed(**(record | {"folder": folder}))
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (ValueError, TypeError):
        raise ValueError(
            f"data_dir: expected a whole record in {folder / _RECORD}; remove {folder}"
        ) from None
    if os.path.lexists(folder):
        raise ValueError(
            f"data_dir: {folder} is there, but not made here; use it as it is, or "
            "move it away"
        )
    return None


def check_space(folder: Path, num_bytes: float) -> None:
    """Raises ValueError unless the disk of a folder has room for so many bytes."""
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise ValueError(
            f"data_dir: expected {num_bytes / 1e9:.2f} GB free in {folder} for the "
            f"archive and what is in it, got {free / 1e9:.2f} GB"
        )


def _members(path: Path) -> Iterator[tuple[PurePosixPath, IO[bytes] | None, int]]:
    """Yields of each member its path, its content if it is a file, the bytes read."""
    members = _zip_members if path.suffix == ".zip" else _tar_members
    try:
        for name, is_plain, stream, done in members(path):
            parts = PurePosixPath(name)
            if parts.is_absolute() or ".." in parts.parts or "\0" in name:
                raise DownloadError(f"{path}: refused, {name!r} leads out of it")
            if not is_plain:
                raise DownloadError(
                    f"{path}: refused, {name!r} is a link or a device, not a file"
                )
            yield parts, stream, done
    except _DAMAGE as error:
        raise _damaged(path, error) from None


def _tar_members(path: Path) -> Iterator[tuple[str, bool, IO[bytes] | None, int]]:
    with (
        open(path, "rb") as file,
        gzip.GzipFile(fileobj=file) as unzipped,
        tarfile.open(fileobj=unzipped, mode="r|") as tar,
    ):
        for member in tar:
            is_plain = member.isreg() or member.isdir()
            stream = tar.extractfile(member) if member.isreg() else None
            yield member.name, is_plain, stream, file.tell()
        # The checksum comes last, after padding that tarfile does not read.
        while unzipped.read(BLOCK_BYTES):
            pass


def _zip_members(path: Path) -> Iterator[tuple[str, bool, IO[bytes] | None, int]]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            is_plain = kind in (0, stat.S_IFREG, stat.S_IFDIR)
            if member.is_dir():
                yield member.filename, is_plain, None, member.header_offset
            else:
                with archive.open(member) as stream:
                    yield member.filename, is_plain, stream, member.header_offset


def _copy(path: Path, stream: IO[bytes], file: IO[bytes]) -> None:
    while True:
        try:
            block = stream.read(BLOCK_BYTES)
        except _DAMAGE as error:
            raise _damaged(path, error) from None
        if not block:
            return
        file.write(block)


def _damaged(path: Path, error: Exception) -> DownloadError:
    return DownloadError(
        f"{path}: cut short or damaged ({error}); remove it to download it again"
    )
