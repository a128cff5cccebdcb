"""What networks of transformers take: their extractors, and these in JAX."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from uap_jax.bridges.torch_modules import Module
from uap_jax.models import frontends

# A feature extractor; transformers is optional, so that its types are Any here.
Extractor = Any
FrontEnd = Callable[[jax.Array], jax.Array]


class Family(NamedTuple):
    """What networks of a class take."""

    extractor: str  # the class of the feature extractor
    input_name: str  # of the features
    front_end: Callable[[Extractor], FrontEnd]
    max_samples: Callable[[Extractor], int | None]  # that a clip may have
    # Pairs of extractor and network that must be the same, as names and values.
    sizes: Callable[[Extractor, Any], dict[str, tuple[int, int]]]


def _wav2vec2(extractor: Extractor) -> FrontEnd:
    if extractor.do_normalize:
        return frontends.zero_mean_unit_variance
    return lambda waveform: waveform


def _ast(extractor: Extractor) -> FrontEnd:
    return functools.partial(
        frontends.ast_fbank,
        num_mels=extractor.num_mel_bins,
        num_frames=extractor.max_length,
        sample_rate_hz=extractor.sampling_rate,
        mean=extractor.mean,
        std=extractor.std,
        normalise=extractor.do_normalize,
    )


def _whisper(extractor: Extractor) -> FrontEnd:
    return functools.partial(
        frontends.whisper_log_mel,
        num_mels=extractor.feature_size,
        num_samples=extractor.n_samples,
        sample_rate_hz=extractor.sampling_rate,
        num_fft=extractor.n_fft,
        hop=extractor.hop_length,
    )


WAV2VEC2 = Family(
    "Wav2Vec2FeatureExtractor",
    "input_values",
    _wav2vec2,
    max_samples=lambda extractor: None,
    sizes=lambda extractor, config: {},
)
FAMILIES = {
    **dict.fromkeys(
        (
            "Wav2Vec2ForSequenceClassification",
            "HubertForSequenceClassification",
            "WavLMForSequenceClassification",
            "Data2VecAudioForSequenceClassification",
            "SEWForSequenceClassification",
            "UniSpeechForSequenceClassification",
            "UniSpeechSatForSequenceClassification",
            "Wav2Vec2ConformerForSequenceClassification",
        ),
        WAV2VEC2,
    ),
    "ASTForAudioClassification": Family(
        "ASTFeatureExtractor",
        "input_values",
        _ast,
        # Frames of 25 ms every 10 ms.
        max_samples=lambda extractor: (
            (extractor.max_length - 1) * (extractor.sampling_rate // 100)
            + extractor.sampling_rate // 40
        ),
        sizes=lambda extractor, config: {
            "max_length": (extractor.max_length, config.max_length),
            "num_mel_bins": (extractor.num_mel_bins, config.num_mel_bins),
        },
    ),
    "WhisperForAudioClassification": Family(
        "WhisperFeatureExtractor",
        "input_features",
        _whisper,
        max_samples=lambda extractor: extractor.n_samples,
        # The second layer of the encoder halves the frames.
        sizes=lambda extractor, config: {
            "feature_size": (extractor.feature_size, config.num_mel_bins),
            "nb_max_frames": (
                extractor.nb_max_frames,
                2 * config.max_source_positions,
            ),
        },
    ),
}


def family_of(model: Module) -> Family:
    """Returns what a model takes.

    Raises:
        ValueError: It is none of `FAMILIES`.
    """
    # A user's class may be derived from a supported one.
    names = [base.__name__ for base in type(model).__mro__]
    known = next((name for name in names if name in FAMILIES), None)
    if known is None:
        raise ValueError(
            f"model: expected one of transformers' {', '.join(FAMILIES)}, got "
            f"{names[0]}"
        )
    return FAMILIES[known]
