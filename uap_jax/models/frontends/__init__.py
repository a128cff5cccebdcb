"""Front ends: waveforms `[B, N]` in [-1, 1] to the features that a network takes.

Pure functions that follow the type of the waveform, with gradients that are finite at
silence. The features have the layout of the original: time before bands as in Kaldi and
TensorFlow, bands before time as in librosa and Whisper.
"""

from uap_jax.models.frontends.hugging_face import (
    ast_fbank,
    whisper_log_mel,
    zero_mean_unit_variance,
)
from uap_jax.models.frontends.kaldi import KaldiConfig, kaldi_fbank, kaldi_mfcc

__all__ = [
    "KaldiConfig",
    "ast_fbank",
    "kaldi_fbank",
    "kaldi_mfcc",
    "whisper_log_mel",
    "zero_mean_unit_variance",
]
