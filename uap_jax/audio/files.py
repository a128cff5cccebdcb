"""Recordings in files: read at one rate, written back sample for sample."""

import contextlib
import math
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile
import soxr
from scipy.io import wavfile

from uap_jax import files
from uap_jax.text import printable

# Recordings are read in blocks and up to a limit, since a damaged header may promise
# more samples than memory holds. In float32, the limits are 1 GiB once resampled,
# 0.25 GiB of all channels, and 0.5 GiB mixed to one channel.
_BLOCK_FRAMES = 1 << 18
_MAX_RESAMPLED = 1 << 28
_MAX_SAMPLES = 1 << 26
_MAX_MIXED = 1 << 27
_PCM16_SCALE = 32768
# Samples at the lower of two rates, beyond which resampling rounds to the same.
_FILTER_MARGIN = 1024
# libsndfile reports an unknown length as this or more.
_UNKNOWN_FRAMES = 1 << 62
_TOO_LONG = "is too long by its header; cut it up"


class _SoundFile(soundfile.SoundFile):
    # Where the header has no length, libsndfile reads on but fails to seek.
    def seekable(self) -> bool:
        return self.frames < _UNKNOWN_FRAMES and super().seekable()


class AudioFileError(ValueError):
    """A recording that cannot be used; one line names the file and the reason."""

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return printable(f"{os.fsdecode(self.path)}: {self.reason}")


def read_audio(
    path: str | os.PathLike[str],
    *,
    sample_rate_hz: int,
    num_samples: int | None = None,
) -> np.ndarray:
    """Reads a recording as one channel at one rate.

    Reads the formats of libsndfile (WAV, FLAC, OGG, MP3 and more). Channels are
    averaged and other rates resampled. Samples of floating-point files may be outside
    [-1, 1]; the conversion to 16 bits clips them. A truncated WAV file gives the
    samples that are left.

    Args:
        path: The file.
        sample_rate_hz: Rate of the result.
        num_samples: Length of the result, cut or padded with zeros at the end; None:
            that of the recording.

    Returns:
        `[N]` float32, full scale at +-1.

    Raises:
        AudioFileError: The file is missing, empty, not readable as audio, without
            samples, too long, or has non-finite samples or an absurd rate.
        ValueError: A setting is not positive.
    """
    check_positive("sample_rate_hz", sample_rate_hz)
    waveform, file_rate_hz = _read(path, mix=True)
    if file_rate_hz != sample_rate_hz:
        if num_samples is not None:
            ratio = file_rate_hz / sample_rate_hz
            needed = num_samples * ratio + _FILTER_MARGIN * max(1, math.ceil(ratio))
            waveform = waveform[: math.ceil(needed)]
        waveform = _resample(path, waveform, file_rate_hz, sample_rate_hz)
    if num_samples is not None:
        waveform = crop_or_pad(waveform, num_samples)
    return waveform


def read_channels(path: str | os.PathLike[str]) -> tuple[np.ndarray, int]:
    """Reads all channels of a recording at its original rate.

    Accepts the same files as `read_audio`, and raises the same errors.

    Returns:
        `[N, C]` float32, full scale at +-1; samples per second.
    """
    return _read(path, mix=False)


def read_header(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Returns the samples of a channel, 0 if unknown, and the rate of a recording.

    Raises:
        AudioFileError: `read_audio` could not read it, by its header.
    """
    with _opened(path) as file:
        num_frames, rate_hz = file.frames, file.samplerate
    if not num_frames:
        raise AudioFileError(path, "holds no samples")
    if num_frames >= _UNKNOWN_FRAMES:
        num_frames = 0
    if num_frames > _MAX_MIXED:
        raise AudioFileError(path, _TOO_LONG)
    return num_frames, rate_hz


def crop_or_pad(waveform: np.ndarray, num_samples: int) -> np.ndarray:
    """Cuts the end off a waveform `[N]`, or pads zeros there, to `[num_samples]`."""
    check_positive("num_samples", num_samples)
    missing = num_samples - len(waveform)
    return np.pad(waveform, (0, missing)) if missing > 0 else waveform[:num_samples]


def to_pcm16(waveform: np.ndarray) -> np.ndarray:
    """Rounds a waveform to 16-bit samples, round(32768 a), clipped to their range.

    `k / 32768` gives `k` for every 16-bit integer `k`.

    Args:
        waveform: Floating-point samples of any shape, full scale at +-1.

    Raises:
        ValueError: The samples are not floating-point or not finite.
    """
    waveform = as_float32(waveform)
    # Far beyond full scale the product is infinite, and clipped all the same.
    with np.errstate(over="ignore"):
        scaled = np.rint(waveform * np.float32(_PCM16_SCALE))
    return np.clip(scaled, -_PCM16_SCALE, _PCM16_SCALE - 1).astype(np.int16)


def write_wav(
    path: str | os.PathLike[str],
    waveform: np.ndarray,
    *,
    sample_rate_hz: int,
    subtype: Literal["PCM_16", "FLOAT"] = "PCM_16",
) -> None:
    """Writes a WAV file completely or not at all.

    The same waveform gives the same bytes.

    Args:
        path: The file, in an existing folder.
        waveform: `[N]` or `[N, C]` floating-point samples, full scale at +-1.
        sample_rate_hz: Samples per second.
        subtype: "PCM_16" stores `to_pcm16(waveform)`; "FLOAT" stores float32.

    Raises:
        ValueError: The waveform is of another shape, empty or not finite, the subtype
            is unknown, or the folder does not exist.
    """
    path = Path(path)
    waveform = as_float32(waveform)
    check_positive("sample_rate_hz", sample_rate_hz)
    if waveform.ndim not in (1, 2) or not waveform.size:
        raise ValueError(
            f"waveform: expected [N] or [N, C], not empty, got {waveform.shape}"
        )
    if subtype not in ("PCM_16", "FLOAT"):
        raise ValueError(f'subtype: expected "PCM_16" or "FLOAT", got {subtype!r}')
    if not path.parent.is_dir():
        raise ValueError(f"path: expected an existing folder, got {path.parent}")

    samples = to_pcm16(waveform) if subtype == "PCM_16" else waveform
    # By SciPy, since libsndfile puts the time of writing into float files.
    with files.replacing(path) as file:
        wavfile.write(file, sample_rate_hz, samples)


def _read(path: str | os.PathLike[str], *, mix: bool) -> tuple[np.ndarray, int]:
    """Returns the samples, `[N]` of a mix or `[N, C]`, and their rate."""
    blocks = []
    num_read = 0
    # What is NaN, infinite or too loud for a sum is refused when it is mixed.
    with _opened(path) as file, np.errstate(over="ignore", invalid="ignore"):
        rate_hz = file.samplerate
        num_block = max(1, _BLOCK_FRAMES // file.channels)
        max_frames = _MAX_MIXED if mix else _MAX_SAMPLES // file.channels
        if max_frames < file.frames < _UNKNOWN_FRAMES:
            raise AudioFileError(path, _TOO_LONG)
        while num_read <= max_frames:
            block = file.read(num_block, dtype="float32", always_2d=True)
            blocks.append(block.mean(axis=1, dtype=np.float32) if mix else block)
            num_read += len(block)
            if len(block) < num_block:
                break
        else:
            raise AudioFileError(path, "is too long; cut it up")
    samples = np.concatenate(blocks)
    if not len(samples):
        raise AudioFileError(path, "holds no samples")
    if not np.all(np.isfinite(samples)):
        raise AudioFileError(path, "has samples that are NaN or infinite")
    return samples, rate_hz


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Generator[soundfile.SoundFile, None, None]:
    """Opens a recording; all that goes wrong with it is an `AudioFileError`."""
    try:
        num_bytes = os.stat(path).st_size
    except FileNotFoundError:
        raise AudioFileError(path, "does not exist") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        reason = getattr(error, "strerror", None) or error
        raise AudioFileError(path, f"cannot be read ({reason})") from None
    if os.path.isdir(path):
        raise AudioFileError(path, "is a folder")
    if not num_bytes:
        raise AudioFileError(path, "is empty (0 bytes)")
    # As bytes, since old archives have names that are not valid UTF-8.
    name: Any = os.fsencode(path)
    try:
        with _SoundFile(name) as file:
            yield file
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: a .raw file
        reason = getattr(error, "error_string", str(error))
        reason = " ".join(reason.split()).rstrip(".")
        raise AudioFileError(path, f"cannot be read as audio ({reason})") from None


def _resample(
    path: str | os.PathLike[str],
    waveform: np.ndarray,
    file_rate_hz: int,
    sample_rate_hz: int,
) -> np.ndarray:
    if len(waveform) * sample_rate_hz > _MAX_RESAMPLED * file_rate_hz:
        raise AudioFileError(
            path, f"is too long at {sample_rate_hz} Hz (its header says {file_rate_hz})"
        )
    try:
        resampled = soxr.resample(waveform, file_rate_hz, sample_rate_hz, quality="HQ")
    except (RuntimeError, ValueError) as error:
        raise AudioFileError(
            path, f"cannot be resampled from {file_rate_hz} Hz ({error})"
        ) from None
    if not len(resampled):
        raise AudioFileError(path, f"holds no samples at {sample_rate_hz} Hz")
    if not np.all(np.isfinite(resampled)):
        raise AudioFileError(path, "has samples too loud to be resampled")
    return resampled


def as_float32(waveform: np.ndarray) -> np.ndarray:
    """Returns float32 samples; raises ValueError unless floating-point and finite."""
    waveform = np.asarray(waveform)
    if not np.issubdtype(waveform.dtype, np.floating):
        raise ValueError(
            f"waveform: expected floating-point samples, got {waveform.dtype}"
        )
    if not np.all(np.isfinite(waveform)):
        raise ValueError("waveform: expected finite samples, got NaN or infinity")
    return waveform.astype(np.float32, copy=False)


def check_positive(name: str, value: int) -> None:
    """Raises ValueError for a setting that is not positive."""
    if value <= 0:
        raise ValueError(f"{name}: expected a positive number, got {value}")
