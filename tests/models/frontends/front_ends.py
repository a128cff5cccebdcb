"""The front ends that are tested, their formulas, and what they are tested on."""

import dataclasses
import functools

import frontend_forms as forms
import jax
import librosa
import numpy as np

from uap_jax.models import frontends

RATE = 16_000
N = 4_123


def clips():
    """Silence, full scale, a tone in noise, noise, half a clip, an offset, quiet."""
    rng = np.random.default_rng(0)
    time = np.arange(N) / RATE
    noise = rng.uniform(-1, 1, N)
    square = np.sign(np.sin(2 * np.pi * 100 * time) + 1e-9)
    # Bands 100 dB below the loudest are rounding noise in float32.
    tone = 0.5 * np.sin(2 * np.pi * 440 * time) + 0.1 * noise
    half = np.where(time < 0.1, 0.3 * noise, 0)
    sounds = [np.zeros(N), square, tone, noise, half, 0.4 + 0.1 * noise, 1e-3 * noise]
    return np.stack(sounds).astype(np.float32)


@functools.cache
def whisper_bank():
    return librosa.filters.mel(
        sr=RATE, n_fft=400, n_mels=80, fmax=8000, dtype=np.float64
    )


@functools.cache
def htk_bank():
    return librosa.filters.mel(
        sr=RATE, n_fft=512, n_mels=40, htk=True, norm=None, dtype=np.float64
    )


def tf_op_mfcc(x):
    power = frontends.tf_spectrogram(x, frame=480, hop=320, power=True)
    return frontends.tf_op_mfcc(power, num_mels=40, num_mfcc=10)


HTK = frontends.LibrosaConfig(
    sample_rate_hz=RATE,
    num_fft=512,
    window_size=400,
    hop=160,
    num_mels=40,
    scale="htk",
    unit_area=False,
)
KEYWORDS = frontends.TfSignalConfig(
    frame=480, hop=320, num_mels=40, low_hz=20.0, high_hz=4000.0
)
OF_KEYWORDS = {"rate": RATE, "size": 480, "hop": 320, "num_fft": 512, "num_mels": 40}
OF_KEYWORDS |= {"low": 20.0, "high": 4000.0, "num_mfcc": 10}
GAIN = dataclasses.replace(frontends.MICRO_WAKE_WORD, rounding=False)


def micro_without_rounding(x):
    """In natural logarithms, as the others, not in 64ths."""
    return frontends.micro_log_mel(x, GAIN) / 64


POVEY = frontends.KaldiConfig(num_mels=40, scale=32768.0)

# What is tested, and its formula.
FRONT_ENDS = {
    "wav2vec2": (frontends.zero_mean_unit_variance, forms.wav2vec2),
    "whisper": (
        functools.partial(frontends.whisper_log_mel, num_samples=8_000),
        lambda x: forms.whisper(x, whisper_bank(), num_samples=8_000),
    ),
    "ast": (
        functools.partial(frontends.ast_fbank, num_frames=40),
        lambda x: forms.ast(x, num_frames=40),
    ),
    "kaldi_fbank": (
        functools.partial(frontends.kaldi_fbank, config=POVEY),
        lambda x: forms.kaldi_fbank(x, rate=RATE, num_mels=40, scale=32768.0),
    ),
    "kaldi_mfcc": (
        frontends.kaldi_mfcc,
        lambda x: forms.kaldi_mfcc(x, rate=RATE, num_mels=23),
    ),
    "librosa_mfcc": (
        functools.partial(frontends.librosa_mfcc, config=HTK),
        lambda x: forms.librosa_mfcc(
            x, htk_bank(), num_fft=512, size=400, hop=160, num_mfcc=20
        ),
    ),
    "speech_features_mfcc": (
        frontends.speech_features_mfcc,
        lambda x: forms.speech_features_mfcc(x, rate=RATE, num_mels=26),
    ),
    "tf_mfcc": (
        functools.partial(frontends.tf_mfcc, config=KEYWORDS, num_mfcc=10),
        lambda x: forms.tf_mfcc(x, **OF_KEYWORDS),
    ),
    "micro": (micro_without_rounding, lambda x: forms.micro(x) / 64),
    "tf_op_mfcc": (tf_op_mfcc, lambda x: forms.tf_op_mfcc(x, **OF_KEYWORDS)),
}


def weights(shape):
    """What the gradient is of: a sum of features with these weights."""
    return np.random.default_rng(0).standard_normal(shape)


@functools.cache
def compiled(name):
    """Features and a gradient, in one program."""
    front_end = FRONT_ENDS[name][0]

    @jax.jit
    def run(x):
        features, pull = jax.vjp(front_end, x)
        return features, pull(weights(features.shape).astype(x.dtype))[0]

    return run
