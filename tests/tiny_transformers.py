"""Models of transformers, tiny and with random weights."""

import functools

import numpy as np
import torch
import transformers
from transformers import pipelines

NUM_SAMPLES = 8000
NAMES = ("wav2vec2", "wav2vec2_layer_norm", "hubert", "wavlm", "ast", "whisper")
# With the front end of Wav2Vec2.
KIN = ("data2vec", "sew", "unispeech", "unispeech_sat", "conformer")
CLASS_NAMES = ("high", "low", "mid")

_LABELS = {
    "id2label": dict(enumerate(CLASS_NAMES)),
    "label2id": {name: index for index, name in enumerate(CLASS_NAMES)},
}
_TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    # Weights of the usual size give logits that hardly depend on the clip.
    "initializer_range": 0.4,
    **_LABELS,
}
_WAV2VEC2 = {
    **_TINY,
    "conv_dim": (8, 8, 8),
    "conv_kernel": (10, 8, 4),
    "conv_stride": (8, 6, 4),
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 12,
}


def make(name, **changes):
    """A model in evaluation mode and its feature extractor."""
    torch.manual_seed(0)
    model, extractor = _MAKE[name](changes)
    return model.eval(), extractor


def _wav2vec2(changes):
    config = transformers.Wav2Vec2Config(**_WAV2VEC2 | changes)
    return (
        transformers.Wav2Vec2ForSequenceClassification(config),
        transformers.Wav2Vec2FeatureExtractor(),
    )


def _wav2vec2_layer_norm(changes):
    """The large models: layer norms, a mask, and a weighted sum of all layers."""
    config = transformers.Wav2Vec2Config(
        **_WAV2VEC2
        | {
            "feat_extract_norm": "layer",
            "do_stable_layer_norm": True,
            "conv_bias": True,
            "use_weighted_layer_sum": True,
        }
        | changes
    )
    return (
        transformers.Wav2Vec2ForSequenceClassification(config),
        transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True),
    )


def _hubert(changes):
    config = transformers.HubertConfig(**_WAV2VEC2 | changes)
    return (
        transformers.HubertForSequenceClassification(config),
        transformers.Wav2Vec2FeatureExtractor(),
    )


def _wavlm(changes):
    config = transformers.WavLMConfig(**_WAV2VEC2 | {"num_buckets": 16} | changes)
    # As the published large one: nothing is normalised.
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=False)
    return transformers.WavLMForSequenceClassification(config), extractor


def _kin(name, changes, **settings):
    config = getattr(transformers, f"{name}Config")(**_WAV2VEC2 | settings | changes)
    make = getattr(transformers, f"{name}ForSequenceClassification")
    return make(config), transformers.Wav2Vec2FeatureExtractor()


def _ast(changes):
    sizes = {"max_length": 64, "num_mel_bins": 32}
    config = transformers.ASTConfig(**_TINY | sizes | changes)
    # Some seven windows of 16 frames.
    extractor = transformers.ASTFeatureExtractor(**sizes)
    return transformers.ASTForAudioClassification(config), extractor


def _whisper(changes):
    config = transformers.WhisperConfig(
        **{
            "d_model": 16,
            "encoder_layers": 2,
            "decoder_layers": 1,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 24,
            "decoder_ffn_dim": 24,
            "vocab_size": 8,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 3,
            "suppress_tokens": None,
            "begin_suppress_tokens": None,
            "max_source_positions": 50,
            "num_mel_bins": 16,
            "init_std": 0.3,
            "classifier_proj_size": 12,
            **_LABELS,
        }
        | changes
    )
    extractor = transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=1)
    return transformers.WhisperForAudioClassification(config), extractor


_MAKE = {
    "wav2vec2": _wav2vec2,
    "wav2vec2_layer_norm": _wav2vec2_layer_norm,
    "hubert": _hubert,
    "wavlm": _wavlm,
    "data2vec": functools.partial(_kin, "Data2VecAudio"),
    "sew": functools.partial(_kin, "SEW"),
    "unispeech": functools.partial(_kin, "UniSpeech"),
    "unispeech_sat": functools.partial(_kin, "UniSpeechSat"),
    "conformer": functools.partial(_kin, "Wav2Vec2Conformer"),
    "ast": _ast,
    "whisper": _whisper,
}


def clips(num, *, seed=0):
    """Tones in noise at several levels, `[B, N]` in the box."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(NUM_SAMPLES) / 16_000
    frequency_hz = rng.uniform(100.0, 4000.0, (num, 1))
    level = 10 ** rng.uniform(-2.0, 0.0, (num, 1))
    sound = np.sin(2 * np.pi * frequency_hz * time_s)
    sound += 0.3 * rng.standard_normal(sound.shape)
    sound *= level / np.max(np.abs(sound), axis=1, keepdims=True)
    return (0.5 + 0.5 * sound).astype(np.float32)


def pipeline_logits(model, extractor, waveforms):
    """`[B, C]` of transformers' own pipeline, clip by clip, before the softmax."""
    pipeline = pipelines.AudioClassificationPipeline(
        model=model, feature_extractor=extractor, device="cpu"
    )
    rows = []
    for waveform in np.asarray(waveforms):
        scores = pipeline(waveform, top_k=None, function_to_apply="none")
        by_label = {entry["label"]: entry["score"] for entry in scores}
        rows.append([by_label[i] for i in model.config.id2label.values()])
    return np.array(rows)
