"""A sound added to recordings.

The sound is perturbation.wav, full scale at +-1: tanh(v') of an attack in tanh space,
2 v of one in the box. Added to a recording a it is

    w = a + gain * sound,

with the gain of the run's `asr_waveform`: `test.waveform_gain` of result.json, half the
median scale of the training clips to the box. It is 1 for the scaling "fixed". The
recording keeps its level, and so does the sound: a louder recording hides it better.
Scalings "peak" and "minmax" bring every clip to one level first, so that there the
sound fits recordings that are about as loud as the corpus.

Each recording keeps its rate, to which the sound is resampled, and its channels, to
all of which it is added. What does not fit 16 bits is clipped. Through a channel the
sound passes at its rate, and is resampled then.
"""

import math
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soxr

from uap_jax import files
from uap_jax.audio import levels
from uap_jax.audio.files import (
    AudioFileError,
    crop_or_pad,
    read_channels,
    to_pcm16,
    write_wav,
)
from uap_jax.audio.placement import place
from uap_jax.data.dataset import to_waveform
from uap_jax.runs.channels import arrival
from uap_jax.runs.channels.arrival import Drawn

# A damaged header may ask for more than memory holds; 0.5 GiB as float32.
_MAX_SOUND = 1 << 27


class Measured(NamedTuple):
    """Levels of the samples as written, over all channels; NaN without variation."""

    snr_db: float  # in the box, with the resting level, Eq. 14
    snr_ac_db: float  # of the mean-free signals
    num_clipped: int  # samples, of all channels


class Applied(NamedTuple):
    """A recording that was perturbed."""

    sample_rate_hz: int
    num_samples: int
    num_channels: int
    measured: Measured


class Sound:
    """The sound of a run, added to files; called from several threads.

    Args:
        samples: `[N]` float32 with the gain applied.
        sample_rate_hz: Its rate.
        scaling: Of waveforms to the box in which levels are measured.
        as_float: Whether float32 samples are written, and nothing is clipped.
    """

    def __init__(
        self,
        samples: np.ndarray,
        sample_rate_hz: int,
        *,
        scaling: str,
        as_float: bool,
    ) -> None:
        self._samples = samples
        self._rate_hz = sample_rate_hz
        self._scaling = scaling
        self._as_float = as_float
        self._resampled = {sample_rate_hz: samples}
        self._lock = threading.Lock()

    # Of samples far beyond full scale the squares are infinite.
    @np.errstate(over="ignore", invalid="ignore")
    def add_to(
        self, source: Path, target: Path, drawn: Drawn
    ) -> Applied | AudioFileError:
        """Reads a recording and writes it with the sound, or says why it cannot."""
        try:
            samples, rate_hz = read_channels(source)
            sound = self._arriving(drawn, len(samples), rate_hz, source)
        except AudioFileError as error:
            return error
        try:
            written, measured = add_sound(
                samples, sound, scaling=self._scaling, as_float=self._as_float
            )
        except ValueError:  # the sum is infinite
            return AudioFileError(source, "is too loud for anything to be added")
        with files.naming(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            subtype = "FLOAT" if self._as_float else "PCM_16"
            write_wav(target, written, sample_rate_hz=rate_hz, subtype=subtype)
        num_samples, num_channels = samples.shape
        return Applied(rate_hz, num_samples, num_channels, measured)

    def _arriving(
        self, drawn: Drawn, num_samples: int, rate_hz: int, path: Path
    ) -> np.ndarray:
        """What of the sound reaches a recording, `[num_samples]` at its rate."""
        if drawn.channel is None:
            sound = self._at(rate_hz, path)
            return place(sound, num_samples, drawn.placement, sample_rate_hz=rate_hz)
        length = math.ceil(num_samples * self._rate_hz / rate_hz)
        heard = arrival.received(drawn, self._samples, length)
        if rate_hz != self._rate_hz:
            heard = self._resample(heard, rate_hz, path)
        return crop_or_pad(heard, num_samples)

    def _at(self, rate_hz: int, path: Path) -> np.ndarray:
        with self._lock:
            if rate_hz not in self._resampled:
                resampled = self._resample(self._samples, rate_hz, path)
                self._resampled[rate_hz] = resampled
            return self._resampled[rate_hz]

    def _resample(self, sound: np.ndarray, rate_hz: int, path: Path) -> np.ndarray:
        reason = f"has a rate of {rate_hz} Hz, to which the sound cannot be resampled"
        if len(sound) * rate_hz > _MAX_SOUND * self._rate_hz:
            raise AudioFileError(path, reason)
        try:
            sound = soxr.resample(sound, self._rate_hz, rate_hz, quality="HQ")
        except (RuntimeError, ValueError):
            raise AudioFileError(path, reason) from None
        if not len(sound):
            raise AudioFileError(path, reason)
        return sound


def add_sound(
    samples: np.ndarray, sound: np.ndarray, *, scaling: str, as_float: bool = False
) -> tuple[np.ndarray, Measured]:
    """Adds a sound to a recording: w = a + sound, on every channel.

    Args:
        samples: `[N, C]` float32, full scale at +-1.
        sound: `[N]` float32.
        scaling: Of waveforms to the box in which `snr_db` is measured.
        as_float: Whether the result may exceed full scale.

    Returns:
        `[N, C]` float32 samples, of 16 bits unless `as_float`; and their levels.
    """
    perturbed = samples + sound[:, None]
    written = to_waveform(to_pcm16(perturbed))
    # Apart from rounding, half a step; the least negative step is not in 16 bits.
    clipped = np.abs(perturbed - written) > 1 / 65536
    if as_float:
        written = perturbed
    snr_db, snr_ac_db = _levels(samples, written - samples, scaling)
    return written, Measured(snr_db, snr_ac_db, int(np.sum(clipped)))


def _levels(
    samples: np.ndarray, added: np.ndarray, scaling: str
) -> tuple[float, float]:
    """`snr_db` in the box and `snr_ac_db`, over all channels; NaN for silence."""
    signal, noise = samples.T.astype(np.float64), added.T.astype(np.float64)
    if not np.any(np.ptp(signal, axis=1)):
        return np.nan, np.nan
    low, high = signal.min(), signal.max()
    # The scale to the box is that of signal and noise alike.
    offset = {"fixed": -1.0, "peak": -max(-low, high), "minmax": low}[scaling]
    snr_db = levels.snr_db((signal - offset).ravel(), noise.ravel())
    free = (levels.mean_free(channels).ravel() for channels in (signal, noise))
    return float(snr_db), float(levels.snr_db(*free))
