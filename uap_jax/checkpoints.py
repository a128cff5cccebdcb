"""States and perturbations on disk; the only module that imports Orbax.

A state is any pytree of arrays. Each save is written aside and renamed once complete,
so a killed process leaves the previous step.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from orbax.checkpoint import v1

from uap_jax.attacks import Perturbation
from uap_jax.attacks.types import SPACES
from uap_jax.audio import SCALINGS

# Untyped, since names in this interface still move.
ocp: Any = v1
# More, 0.5 GiB, is the header of a damaged file.
_MAX_SAMPLES = 1 << 27


class Checkpoints:
    """The steps of one folder; see `open_checkpoints`."""

    def __init__(self, checkpointer: Any, folder: Path) -> None:
        self._checkpointer = checkpointer
        self._folder = folder

    def save(self, step: int, state: Any) -> None:
        """Saves a state; an existing step stays as it is."""
        if self.latest_step() != step:
            with _as_os_error(self._folder, "cannot be written"):
                self._checkpointer.save(step, state)

    def latest_step(self) -> int | None:
        """Returns the newest complete step, or None."""
        with _as_os_error(self._folder, "cannot be read; delete the folder"):
            latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def restore(self, like: Any) -> Any:
        """Returns the newest state, with the structure and placement of `like`."""
        with _as_os_error(self._folder, "cannot be read; delete the folder"):
            return self._checkpointer.load(self.latest_step(), like)


@contextlib.contextmanager
def open_checkpoints(folder: Path, *, max_to_keep: int = 2) -> Iterator[Checkpoints]:
    """Opens a folder of checkpoints; all saves are complete when the context ends.

    Args:
        folder: Created with the first save.
        max_to_keep: Older steps are deleted.
    """
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


def save_perturbation(folder: Path, perturbation: Perturbation) -> None:
    """Stores a perturbation in a folder, replacing a previous one."""
    settings = {
        name: getattr(perturbation, name)
        for name in ("space", "scaling", "sample_rate_hz", "epsilon")
    }
    with _as_os_error(folder, "cannot be written"):
        ocp.save(
            str(folder.resolve()),
            {"value": perturbation.value},
            overwrite=True,
            custom_metadata=settings,
        )


def load_perturbation(folder: Path) -> Perturbation:
    """Returns a stored perturbation.

    Raises:
        ValueError: The folder holds none, or a damaged one.
    """
    expected = f"folder: expected a stored perturbation in {folder}"
    if not folder.is_dir():
        raise ValueError(f"{expected}, got no such folder")
    where = str(folder.resolve())
    try:
        metadata = ocp.metadata(where)
        (num_samples,) = metadata.metadata["value"].shape
        if not 0 < num_samples < _MAX_SAMPLES:
            raise ValueError(f"{num_samples} samples")
        stored = ocp.load(where, {"value": jnp.zeros(num_samples, jnp.float32)})
        perturbation = Perturbation(stored["value"], **metadata.custom_metadata)
        _check(perturbation)
    # Every part of Orbax reports damage by an exception of its own.
    except Exception as error:
        reason = f"{type(error).__name__}: {_first_line(error)}"
        raise ValueError(f"{expected}, got a damaged one ({reason})") from error
    return perturbation


def _check(perturbation: Perturbation) -> None:
    rate_hz = perturbation.sample_rate_hz
    for name, is_good in (
        ("space", perturbation.space in SPACES),
        ("scaling", perturbation.scaling in (None, *SCALINGS)),
        ("sample_rate_hz", rate_hz is None or 0 < rate_hz < 2**31),
        ("epsilon", 0 < perturbation.epsilon < 1),
        ("value", bool(jnp.all(jnp.isfinite(perturbation.value)))),
    ):
        if not is_good:
            raise ValueError(f"{name} {getattr(perturbation, name)!r}")


@contextlib.contextmanager
def _as_os_error(folder: Path, what: str) -> Iterator[None]:
    """Turns what Orbax raises about files into an OSError that names the folder."""
    try:
        yield
    # Every part of Orbax reports damage by an exception of its own, and a full disk by
    # a ValueError with a page of text.
    except Exception as error:
        is_full = os.strerror(errno.ENOSPC) in str(error)
        code = getattr(error, "errno", None) or (errno.ENOSPC if is_full else errno.EIO)
        reason = os.strerror(errno.ENOSPC) if is_full else _first_line(error)
        raise OSError(code, f"{what}: {reason}", str(folder)) from error


def _first_line(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0][:200]
