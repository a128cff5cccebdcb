"""Archives become folders: completely or not at all, and nothing outside of them."""

import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from uap_jax import files
from uap_jax.data.dataset import ProgressFn
from uap_jax.errors import UsageError

# Unpacked over packed size; about 1.4 by the number and length of the clips.
UNPACKED_RATIO = 1.5
_RECORD = ".archive.json"
# What reading a damaged archive raises, also within tarfile and zipfile.
_DAMAGE = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError),
    *(RuntimeError, ValueError),
)


class DownloadError(Exception):
    """An archive that cannot be had, or not be trusted; one line says why."""


class Installed(NamedTuple):
    """A corpus in its folder."""

    folder: Path  # Where it is.
    checksum: str  # Checksum of the archive, as in `Archive`.
    is_checked: bool  # Whether it was compared with a reference checksum.
    num_files: int  # Number of files in the archive.
    is_new: bool  # Whether it was unpacked now.


def unpack(
    path: Path, folder: Path, checksum: str, is_checked: bool, progress: ProgressFn
) -> Installed:
    """Unpacks an archive into a new folder, completely or not at all.

    Raises:
        ValueError: The disk has no room.
        DownloadError: The archive is empty, damaged, or leads out of the folder.
        OSError: A file cannot be written.
    """
    total = path.stat().st_size
    check_space(folder.parent, UNPACKED_RATIO * total)
    num_files = 0
    extract = _extract_zip if path.suffix == ".zip" else _extract_tar
    try:
        with files.building(folder) as unfinished, files.naming(folder):
            for is_file, done in extract(path, unfinished):
                num_files += is_file
                progress("unpacking", min(done, total - 1), total)
            if not num_files:
                raise DownloadError(f"{path}: holds no files")
            installed = Installed(folder, checksum, is_checked, num_files, is_new=True)
            record = installed._asdict() | {"folder": folder.name, "is_new": False}
            files.write_json(unfinished / _RECORD, record)
            progress("unpacking", total, total)
    except tarfile.FilterError as error:
        raise DownloadError(f"{path}: refused, {error}") from None
    except _DAMAGE as error:
        raise DownloadError(
            f"{path}: cut short or damaged ({error}); remove it to download it again"
        ) from None
    return installed


def find(folder: Path) -> Installed | None:
    """Returns what an earlier call installed, or None."""
    try:
        installed = files.read_json(folder / _RECORD, Installed)
    except NotADirectoryError:
        installed = None
    except UsageError:
        raise ValueError(
            f"data_dir: {folder / _RECORD} is damaged; remove {folder}"
        ) from None
    if installed is None and os.path.lexists(folder):
        raise ValueError(
            f"data_dir: {folder} exists, but was not made here; use it as it is, or "
            "move it away"
        )
    return installed and installed._replace(folder=folder)


def check_space(folder: Path, num_bytes: float) -> None:
    """Raises ValueError unless the disk of a folder has room for so many bytes."""
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise ValueError(
            f"data_dir: expected {num_bytes / 1e9:.2f} GB free in {folder} for the "
            f"archive and its content, got {free / 1e9:.2f} GB"
        )


def _extract_tar(path: Path, folder: Path) -> Iterator[tuple[bool, int]]:
    """Yields for each member whether it is a file, and the bytes read so far."""
    with open(path, "rb") as file, tarfile.open(fileobj=file, mode="r|gz") as tar:
        for member in tar:
            tar.extract(member, folder, filter="data")
            yield member.isreg(), file.tell()


def _extract_zip(path: Path, folder: Path) -> Iterator[tuple[bool, int]]:
    """As `_extract_tar`; zipfile removes what leads out of the folder from names."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            archive.extract(member, folder)
            yield not member.is_dir(), member.header_offset
