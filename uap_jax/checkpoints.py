"""States on disk: the only module that knows Orbax.

A state is any pytree of arrays. Each save is a step of its own, written aside and
renamed when whole, so a killed process leaves the step before it.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from uap_jax.attacks import Perturbation
from uap_jax.attacks.types import SPACES
from uap_jax.audio import SCALINGS

# A damaged header may ask for more than memory holds; 0.5 GiB as float32.
_MAX_SAMPLES = 1 << 27


@contextlib.contextmanager
def open_checkpoints(folder: Path, *, max_to_keep: int = 2) -> Iterator["Checkpoints"]:
    """Opens a folder of checkpoints, made when the first is saved.

    Args:
        folder: Where the steps are.
        max_to_keep: Older steps are deleted.

    Yields:
        The open folder; saves are complete when the context ends.
    """
    ocp = _orbax()
    with _as_os_error(folder, "cannot be opened"):
        checkpointer = ocp.training.Checkpointer(
            str(folder.resolve()),
            preservation_policy=ocp.training.preservation_policies.LatestN(max_to_keep),
        )
    try:
        yield Checkpoints(checkpointer, folder)
    finally:
        with _as_os_error(folder, "cannot be written"):
            checkpointer.close()


class Checkpoints:
    """The steps of one folder; made by `open_checkpoints`."""

    def __init__(self, checkpointer: Any, folder: Path) -> None:
        self._checkpointer = checkpointer
        self._folder = folder

    def save(self, step: int, state: Any) -> None:
        """Saves a state; a step that is there already stays as it is."""
        if self.latest_step() != step:
            with _as_os_error(self._folder, "cannot be written"):
                self._checkpointer.save(step, state)

    def latest_step(self) -> int | None:
        """Returns the newest whole step, or None."""
        with _as_os_error(self._folder, "cannot be read; delete the folder"):
            latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def restore(self, like: Any) -> Any:
        """Returns the newest state, with the structure and placement of `like`."""
        with _as_os_error(self._folder, "cannot be read; delete the folder"):
            return self._checkpointer.load(self.latest_step(), like)


def save_perturbation(folder: Path, perturbation: Perturbation) -> None:
    """Stores a perturbation in a folder of its own, replacing what is there."""
    ocp = _orbax()
    settings = {
        "space": perturbation.space,
        "scaling": perturbation.scaling,
        "sample_rate_hz": perturbation.sample_rate_hz,
        "epsilon": perturbation.epsilon,
    }
    with _as_os_error(folder, "cannot be written"):
        ocp.save(
            str(folder.resolve()),
            {"value": perturbation.value},
            overwrite=True,
            custom_metadata=settings,
        )


def load_perturbation(folder: Path) -> Perturbation:
    """Returns a perturbation that `save_perturbation` stored.

    Raises:
        ValueError: The folder holds none, or a damaged one.
    """
    ocp = _orbax()
    expected = f"folder: expected a stored perturbation in {folder}"
    if not folder.is_dir():
        raise ValueError(f"{expected}, got no such folder")
    where = str(folder.resolve())
    try:
        metadata = ocp.metadata(where)
        (num_samples,) = metadata.metadata["value"].shape
        if not 0 < num_samples < _MAX_SAMPLES:
            raise ValueError(f"{num_samples} samples")
        like = jax.numpy.zeros(num_samples, jax.numpy.float32)
        stored = ocp.load(where, {"value": like})
        found = Perturbation(stored["value"], **metadata.custom_metadata)
        _check(found)
    # Whichever part sees the damage first has its own kind of error.
    except Exception as error:
        reason = f"{type(error).__name__}: {_first_line(error)}"
        raise ValueError(f"{expected}, got a damaged one ({reason})") from error
    return found


def _check(perturbation: Perturbation) -> None:
    """Raises ValueError for what no attack gives."""
    rate_hz = perturbation.sample_rate_hz
    for name, is_good in (
        ("space", perturbation.space in SPACES),
        ("scaling", perturbation.scaling in (None, *SCALINGS)),
        ("sample_rate_hz", rate_hz is None or 0 < rate_hz < 2**31),
        ("epsilon", 0 < perturbation.epsilon < 1),
        ("value", bool(jax.numpy.all(jax.numpy.isfinite(perturbation.value)))),
    ):
        if not is_good:
            raise ValueError(f"{name} {getattr(perturbation, name)!r}")


@contextlib.contextmanager
def _as_os_error(folder: Path, what: str) -> Iterator[None]:
    """Turns what Orbax raises of files into an OSError that names the folder.

    A full disk reaches us as a ValueError with a page of text.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or _first_line(error)
        raise OSError(error.errno, f"{what}: {reason}", str(folder)) from error
    # Whichever part sees the damage first has its own kind of error.
    except Exception as error:
        reason = _first_line(error)
        if (full := os.strerror(errno.ENOSPC)) in str(error):
            reason = full
        raise OSError(errno.EIO, f"{what}: {reason}", str(folder)) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]


def _orbax() -> Any:
    """The v1 interface, loaded at first use; untyped, for its names still move."""
    from orbax.checkpoint import v1

    return v1
