"""Recordings through real encoders and decoders, those of libsndfile.

Clips go through a codec one after the other in one stream, with silence in between, as
they are in a call or a file of several utterances. The delay of encoder and decoder is
measured by correlation, compensated and told.
"""

import io
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import scipy.signal
import soundfile
import soxr

from uap_jax.audio.files import crop_or_pad

# Silence between two clips, and the longest delay that is looked for.
_GAP_S, _MAX_DELAY_S = 0.1, 0.2
# Samples that are written at once: of a minute, the encoder of Vorbis overflows its
# stack, which ends the process.
_PART = 1 << 14
_NONE: Mapping[str, Any] = MappingProxyType({})


class Codec(NamedTuple):
    """An encoder as soundfile names it, and the sample rate at which it is used."""

    format: str
    subtype: str
    rate_hz: int
    options: Mapping[str, Any] = _NONE


def _mp3(level: float) -> Codec:
    options = {"compression_level": level, "bitrate_mode": "CONSTANT"}
    return Codec("MP3", "MPEG_LAYER_III", 16_000, options)


# Bit rates are those measured on speech; each run tells its own.
CODECS: dict[str, Codec] = {
    "MP3 32 kbit/s": _mp3(0.85),
    "MP3 16 kbit/s": _mp3(0.95),
    "Opus 19 kbit/s": Codec("OGG", "OPUS", 16_000, {"compression_level": 0.95}),
    "Opus 7 kbit/s": Codec("OGG", "OPUS", 16_000, {"compression_level": 1.0}),
    "Vorbis 41 kbit/s": Codec("OGG", "VORBIS", 16_000, {"compression_level": 0.5}),
    "Vorbis 25 kbit/s": Codec("OGG", "VORBIS", 16_000, {"compression_level": 1.0}),
    "mu-law 64 kbit/s": Codec("WAV", "ULAW", 8_000),
    "A-law 64 kbit/s": Codec("WAV", "ALAW", 8_000),
    "ADPCM 64 kbit/s": Codec("WAV", "IMA_ADPCM", 16_000),
    "ADPCM 32 kbit/s": Codec("WAV", "IMA_ADPCM", 8_000),
    "GSM 13 kbit/s": Codec("WAV", "GSM610", 8_000),
}


class Coded(NamedTuple):
    """What comes out of a codec, `[B, N]`, its delay and its rate."""

    waveforms: np.ndarray
    delay_s: float
    kbit_s: float


def through_codec(waveforms: np.ndarray, codec: Codec, *, sample_rate_hz: int) -> Coded:
    """Encodes and decodes waveforms; what is louder than full scale is clipped.

    Args:
        waveforms: `[B, N]` in [-1, 1].
        codec: The codec.
        sample_rate_hz: Of the waveforms, which are resampled for the codec and back.
    """
    num_clips, num_samples = waveforms.shape
    gap = round(_GAP_S * sample_rate_hz)
    stream = np.pad(waveforms, ((0, 0), (gap, gap))).ravel()
    sent = _resampled(stream, sample_rate_hz, codec.rate_hz)
    file = io.BytesIO()
    with soundfile.SoundFile(
        file,
        "w",
        samplerate=codec.rate_hz,
        channels=1,
        format=codec.format,
        subtype=codec.subtype,
        **codec.options,
    ) as encoder:
        for start in range(0, len(sent), _PART):
            encoder.write(np.clip(sent[start : start + _PART], -1, 1))
    kbit_s = 8 * file.tell() / (len(sent) / codec.rate_hz) / 1000
    file.seek(0)
    decoded, rate_hz = soundfile.read(file, dtype="float32")
    delay = _delay(sent, decoded, round(_MAX_DELAY_S * rate_hz))
    aligned = decoded[delay:] if delay >= 0 else np.pad(decoded, (-delay, 0))
    aligned = crop_or_pad(aligned, len(sent))
    received = crop_or_pad(
        _resampled(aligned, codec.rate_hz, sample_rate_hz), len(stream)
    )
    received = received.reshape(num_clips, -1)[:, gap : gap + num_samples]
    return Coded(received, delay / rate_hz, kbit_s)


def _delay(sent: np.ndarray, decoded: np.ndarray, most: int) -> int:
    """The samples by which the correlation is largest; 0 for silence."""
    shorter = min(len(sent), len(decoded))
    match = scipy.signal.correlate(decoded[:shorter], sent[:shorter], method="fft")
    near = match[max(0, shorter - 1 - most) : shorter + most]
    if not np.any(near):
        return 0
    return int(np.argmax(near)) - min(most, shorter - 1)


def _resampled(waveform: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    if from_hz == to_hz:
        return waveform
    return soxr.resample(waveform, from_hz, to_hz, quality="HQ")
