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
from uap_jax.models.frontends.librosa_mel import (
    LibrosaConfig,
    librosa_log_mel,
    librosa_mel,
    librosa_mfcc,
)
from uap_jax.models.frontends.microfrontend import (
    MICRO_WAKE_WORD,
    MicroConfig,
    micro_log_mel,
)
from uap_jax.models.frontends.speech_features import (
    SpeechFeaturesConfig,
    speech_features_log_mel,
    speech_features_mfcc,
)
from uap_jax.models.frontends.tensorflow import (
    TfSignalConfig,
    tf_log_mel,
    tf_mfcc,
    tf_op_mfcc,
    tf_spectrogram,
)

__all__ = [
    "MICRO_WAKE_WORD",
    "KaldiConfig",
    "LibrosaConfig",
    "MicroConfig",
    "SpeechFeaturesConfig",
    "TfSignalConfig",
    "ast_fbank",
    "kaldi_fbank",
    "kaldi_mfcc",
    "librosa_log_mel",
    "librosa_mel",
    "librosa_mfcc",
    "micro_log_mel",
    "speech_features_log_mel",
    "speech_features_mfcc",
    "tf_log_mel",
    "tf_mfcc",
    "tf_op_mfcc",
    "tf_spectrogram",
    "whisper_log_mel",
    "zero_mean_unit_variance",
]
