"""Audio classifiers of Hugging Face's transformers, from the waveform with gradients.

The feature extractor of a checkpoint works on NumPy arrays, which ends the gradient. It
is replaced by the same front end in JAX, compiled with the attack, and the network
itself runs in PyTorch on the features. Whether the two front ends are the same is
checked with the real extractor when a classifier is made.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from uap_jax.attacks.checks import check_size
from uap_jax.attacks.types import Variables
from uap_jax.bridges.checks import one_line
from uap_jax.bridges.hugging_face.families import (
    WAV2VEC2,
    Extractor,
    Family,
    FrontEnd,
    family_of,
)
from uap_jax.bridges.torch_modules import Module, from_torch
from uap_jax.models.classifier import Classifier

# Of a feature, in units of its largest value, or of 1 where that is smaller.
FRONT_END_TOLERANCE = 1e-4
_INT16_SCALE = 32_768.0


def from_transformers(
    model: Module,
    extractor: Extractor | None = None,
    *,
    num_samples: int,
    sample_rate_hz: int | None = None,
    num_threads: int | None = None,
) -> Classifier:
    """Makes a classifier of an audio classification model of transformers.

    logits(x) = network(front_end(2 x - 1))

    Wav2Vec2, HuBERT, WavLM and their kin (`...ForSequenceClassification`), AST and
    Whisper's encoder (`...ForAudioClassification`). A head of several labels at once
    (`problem_type="multi_label_classification"`) gives the scores before its sigmoids;
    `models.detectors.detector` makes one of the labels a classifier. The model is put
    into evaluation mode, and must stay in it.

    Args:
        model: The model, with float32 weights.
        extractor: Its feature extractor; None: that of the checkpoint which the model
            was loaded from, on this machine.
        num_samples: N. Where the extractor pads clips (AST, Whisper), it does so here.
        sample_rate_hz: Rate of the clips, which must be that of the extractor; None:
            the extractor's.
        num_threads: Threads of PyTorch, see `from_torch`.

    Returns:
        The classifier; its class names are those of `config.id2label`, None where these
        are LABEL_0, LABEL_1, ...

    Raises:
        ValueError: The model or the extractor is not supported, they do not fit
            together, the front end in JAX differs from the extractor, or the network
            fails as in `from_torch`.
    """
    check_size("num_samples", num_samples)
    family = family_of(model)
    name = type(model).__name__
    extractor = _loaded_extractor(model) if extractor is None else extractor
    # A processor has a part that takes sounds.
    extractor = getattr(extractor, "feature_extractor", extractor)
    _check_extractor(family, model, extractor, sample_rate_hz, num_samples)
    _check_weights(model)
    num_classes = _check_head(model)
    is_multi_label = model.config.problem_type == "multi_label_classification"
    front_end = family.front_end(extractor)
    clip = jax.ShapeDtypeStruct((1, num_samples), jnp.float32)
    try:
        shape = jax.eval_shape(front_end, clip).shape[1:]
    except ValueError as error:
        raise ValueError(f"extractor: {one_line(error)}") from error
    check_front_end(front_end, extractor, family.input_name, num_samples)
    network = from_torch(
        _on_features(model, family.input_name, _gives_mask(family, extractor)),
        num_classes=num_classes,
        num_samples=math.prod(shape),
        clip_shape=shape,
        num_threads=num_threads,
        name=name,
    )

    def logits(variables: Variables, x: jax.Array) -> jax.Array:
        # A front end would pad other lengths without a word.
        if x.ndim != 2 or x.shape[1] != num_samples:
            raise ValueError(f"x: expected [B, {num_samples}], got {x.shape}")
        features = front_end(2.0 * x - 1.0)
        return network.logits(variables, features.reshape(len(x), -1))

    return Classifier(
        logits,
        {},
        num_samples,
        int(extractor.sampling_rate),
        class_names_of(model.config),
        threshold=0.5 if is_multi_label else None,
    )


def class_names_of(config: Any) -> tuple[str, ...] | None:
    """Returns the names in `id2label`; None where they are LABEL_0, LABEL_1, ..."""
    names = tuple(config.id2label[index] for index in range(config.num_labels))
    is_default = all(name == f"LABEL_{i}" for i, name in enumerate(names))
    return None if is_default else names


def check_front_end(
    front_end: FrontEnd, extractor: Extractor, input_name: str, num_samples: int
) -> None:
    """Compares a front end in JAX with a feature extractor on probe clips.

    Raises:
        ValueError: They differ by more than `FRONT_END_TOLERANCE`.
    """
    probes = _probe_waveforms(num_samples)

    def features_of(probe: np.ndarray) -> np.ndarray:
        rate_hz = extractor.sampling_rate
        extracted = extractor(probe, sampling_rate=rate_hz, return_tensors="np")
        return np.asarray(extracted[input_name][0])

    expected = np.stack([features_of(probe) for probe in probes])
    compiled = jax.jit(front_end)
    features = np.asarray(compiled(probes))
    tolerance = FRONT_END_TOLERANCE * max(1.0, float(np.max(np.abs(expected))))

    def largest_difference(features: np.ndarray) -> float:
        return float(np.max(np.abs(features - expected)))

    where = f"extractor: expected features of {type(extractor).__name__} that the front"
    if features.shape != expected.shape:
        raise ValueError(
            f"{where} end in JAX computes too, {list(features.shape[1:])}, got "
            f"{list(expected.shape[1:])}"
        )
    difference = largest_difference(features)
    if difference <= tolerance:
        return
    scaled = np.asarray(compiled(_INT16_SCALE * probes))
    why = (
        "; it scales samples to 16 bits"
        if largest_difference(scaled) <= tolerance
        else ""
    )
    raise ValueError(
        f"{where} end in JAX computes too, up to {tolerance:.2g}, got a difference of "
        f"{difference:.2g}{why}"
    )


def _loaded_extractor(model: Module) -> Extractor:
    import transformers  # pyrefly: ignore[missing-import]

    source = model.config.name_or_path
    try:
        return transformers.AutoFeatureExtractor.from_pretrained(
            source, local_files_only=True, trust_remote_code=False
        )
    # What is missing or damaged raises many types.
    except Exception as error:
        raise ValueError(
            "extractor: expected the model's feature extractor, such as "
            "AutoFeatureExtractor.from_pretrained(FOLDER), got none, and none in "
            f"{source or 'the folder of the model, which is not known'}"
        ) from error


def _check_extractor(
    family: Family,
    model: Module,
    extractor: Extractor,
    sample_rate_hz: int | None,
    num_samples: int,
) -> None:
    name = type(model).__name__
    got = type(extractor).__name__
    if family.extractor not in [base.__name__ for base in type(extractor).__mro__]:
        raise ValueError(
            f"extractor: expected {family.extractor} for {name}, got {got}"
        )
    rate_hz = extractor.sampling_rate
    if sample_rate_hz is not None and sample_rate_hz != rate_hz:
        raise ValueError(
            f"sample_rate_hz: expected {rate_hz}, the rate of the {got}, got "
            f"{sample_rate_hz}"
        )
    for size, (given, expected) in family.sizes(extractor, model.config).items():
        if given != expected:
            raise ValueError(
                f"extractor: expected {size} {expected}, as {name} has it, got {given}"
            )
    longest = family.max_samples(extractor)
    if longest is not None and num_samples > longest:
        raise ValueError(
            f"num_samples: expected at most {longest}, which is all that {got} hears, "
            f"got {num_samples}"
        )


def _check_weights(model: Module) -> None:
    import torch  # pyrefly: ignore[missing-import]

    others = {weight.dtype for weight in model.parameters()} - {torch.float32}
    if others:
        names = ", ".join(sorted(str(other) for other in others))
        raise ValueError(
            f"model: expected weights torch.float32, got {names}; model.float() "
            "converts them, and logits change by the rounding of the other type"
        )


def _check_head(model: Module) -> int:
    config = model.config
    if config.problem_type == "regression" or config.num_labels < 2:
        raise ValueError(
            "model: expected a head of two or more classes, got "
            f"{config.num_labels} outputs (problem_type {config.problem_type})"
        )
    return config.num_labels


def _gives_mask(family: Family, extractor: Extractor) -> bool:
    """Returns whether the network gets a mask, which marks all of a clip."""
    return family is WAV2VEC2 and bool(extractor.return_attention_mask)


def _on_features(model: Module, input_name: str, with_mask: bool) -> Module:
    import torch  # pyrefly: ignore[missing-import]

    class OnFeatures(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, features: Any) -> Any:
            inputs = {input_name: features}
            if with_mask:
                inputs["attention_mask"] = torch.ones(
                    features.shape, dtype=torch.int32, device=features.device
                )
            return self.model(**inputs).logits

    return OnFeatures()


def _probe_waveforms(num_samples: int) -> np.ndarray:
    """Returns silence, noise at three levels, and noise that ends, `[5, N]`."""
    noise = np.random.default_rng(0).standard_normal((4, num_samples))
    noise /= np.max(np.abs(noise))
    probes = np.concatenate([np.zeros((1, num_samples)), noise])
    probes *= np.array([0.0, 0.003, 0.1, 1.0, 0.3])[:, None]
    probes[4, num_samples // 2 :] = 0.0
    return probes.astype(np.float32)
