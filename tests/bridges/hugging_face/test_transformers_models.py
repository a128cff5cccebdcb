"""Models of transformers agree with its own pipeline, and have its gradient."""

import copy
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uap_jax import attacks, bridges
from uap_jax.bridges import hugging_face
from uap_jax.models import detectors

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
# It imports both.
tiny = pytest.importorskip("tiny_transformers")

N = tiny.NUM_SAMPLES


@functools.cache
def bridged(name):
    model, extractor = tiny.make(name)
    return bridges.from_transformers(model, extractor, num_samples=N), model, extractor


# Those that differ in their front end; the rest share it with one of them.
DIFFERENT = ("wav2vec2_layer_norm", "wavlm", "ast", "whisper")
ALL = [
    name if name in DIFFERENT else pytest.param(name, marks=pytest.mark.slow)
    for name in (*tiny.NAMES, *tiny.KIN)
]


@pytest.mark.parametrize("name", ALL)
def test_logits_are_those_of_the_pipeline(name):
    classifier, model, extractor = bridged(name)
    x = tiny.clips(100)
    logits = jax.jit(classifier.logits)({}, x)
    expected = tiny.pipeline_logits(model, extractor, 2.0 * x - 1.0)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
    # The clips matter.
    assert np.min(np.ptp(expected, axis=0)) > 0.5
    assert classifier.class_names == tiny.CLASS_NAMES
    assert classifier.sample_rate_hz == 16_000


@pytest.mark.parametrize("name", ALL)
def test_directional_derivative(name):
    """The gradient against central differences in float64."""
    classifier, model, extractor = bridged(name)
    rng = np.random.default_rng(1)
    x = tiny.clips(4, seed=2)
    weights = rng.standard_normal((4, len(tiny.CLASS_NAMES))).astype(np.float32)

    def total(x):
        return jnp.sum(weights * classifier.logits({}, x))

    gradient = np.asarray(jax.jit(jax.grad(total))(x), np.float64)
    unit = gradient / np.linalg.norm(gradient, axis=1, keepdims=True)
    noise = rng.standard_normal(x.shape) / np.sqrt(N)
    direction = unit + noise
    expected = central_differences(name, model, extractor, x, weights, direction)
    derivative = np.sum(gradient * direction, axis=1)
    np.testing.assert_allclose(derivative, expected, rtol=1e-3)


def central_differences(name, model, extractor, x, weights, direction, step=1e-6):
    """`[B]` of the same network in float64."""
    double = copy.deepcopy(model).double()
    family = hugging_face.FAMILIES[type(model).__name__]
    front_end = family.front_end(extractor)

    def totals(x):
        with jax.enable_x64(True):
            features = np.array(front_end(jnp.asarray(2.0 * x - 1.0)))
        assert features.dtype == np.float64
        with torch.no_grad():
            inputs = {family.input_name: torch.from_numpy(features)}
            if name == "wav2vec2_layer_norm":
                inputs["attention_mask"] = torch.ones(x.shape, dtype=torch.int32)
            logits = double(**inputs).logits.numpy()
        return np.sum(weights * logits, axis=1)

    x = x.astype(np.float64)
    above, below = totals(x + step * direction), totals(x - step * direction)
    return (above - below) / (2 * step)


def test_attack():
    classifier, _, _ = bridged("wav2vec2_layer_norm")
    x = jnp.asarray(tiny.clips(24))
    labels = jnp.argmax(classifier.logits({}, x), axis=1).astype(jnp.int32)
    target = int(jnp.argmin(jnp.bincount(labels, length=3)))
    config = attacks.PenaltyConfig(learning_rate=0.02, max_passes=20, batch_size=8)
    result = attacks.penalty(
        classifier.logits,
        classifier.variables,
        x,
        labels,
        key=jax.random.key(0),
        target=target,
        config=config,
    )
    assert jnp.mean(labels == target) < 0.4
    assert result.train_asr >= 0.9


def test_several_labels_at_once():
    """The logits of the sigmoids."""
    model, extractor = tiny.make("ast", problem_type="multi_label_classification")
    classifier = bridges.from_transformers(model, extractor, num_samples=N)
    x = tiny.clips(3)
    scores = tiny.pipeline_logits(model, extractor, 2.0 * x - 1.0)
    np.testing.assert_allclose(classifier.logits({}, x), scores, rtol=0, atol=1e-4)
    detector = detectors.detector(classifier, label="low")
    expected = np.stack([np.zeros(3), scores[:, 1]], axis=1)
    np.testing.assert_allclose(detector.logits({}, x), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "num_samples", [700, pytest.param(5000, marks=pytest.mark.slow)]
)
def test_short_clips_are_padded_inside(num_samples):
    for name in ("ast", "whisper"):
        model, extractor = tiny.make(name)
        classifier = bridges.from_transformers(
            model, extractor, num_samples=num_samples
        )
        x = tiny.clips(3)[:, :num_samples]
        expected = tiny.pipeline_logits(model, extractor, 2.0 * x - 1.0)
        logits = classifier.logits({}, x)
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:At least one mel filter has all zero values")
def test_extractors_as_they_are_published():
    """AST's ten seconds in 128 bands, Whisper's thirty in 80."""
    for name, num_samples in (("ast", 160_000), ("whisper", 48_000)):
        if name == "ast":
            extractor = transformers.ASTFeatureExtractor()
        else:
            extractor = transformers.WhisperFeatureExtractor()
        family = next(
            family
            for family in hugging_face.FAMILIES.values()
            if family.extractor == type(extractor).__name__
        )
        hugging_face.check_front_end(
            family.front_end(extractor), extractor, family.input_name, num_samples
        )


def test_clips_of_another_length():
    classifier, _, _ = bridged("whisper")
    with pytest.raises(ValueError, match=r"x: expected \[B, 8000\], got \(2, 7999\)"):
        classifier.logits({}, tiny.clips(2)[:, 1:])


def test_no_class_names():
    names = {index: f"LABEL_{index}" for index in range(3)}
    model, extractor = tiny.make("ast", id2label=names, label2id={})
    classifier = bridges.from_transformers(model, extractor, num_samples=N)
    assert classifier.class_names is None


def test_training_mode():
    model, extractor = tiny.make("ast")
    classifier = bridges.from_transformers(model.train(), extractor, num_samples=N)
    assert not model.training
    model.train()
    with pytest.raises(
        (ValueError, jax.errors.JaxRuntimeError),
        match="ASTForAudioClassification: expected evaluation mode",
    ):
        classifier.logits({}, tiny.clips(1))


class Int16(transformers.Wav2Vec2FeatureExtractor):
    """Takes samples in [-1, 1] and gives 16-bit ones."""

    def __call__(self, waveform, **settings):
        return super().__call__(32_768.0 * waveform, **settings)


class Dithered(transformers.ASTFeatureExtractor):
    def __call__(self, waveform, **settings):
        noise = 1e-3 * np.random.default_rng(0).standard_normal(waveform.shape)
        return super().__call__((waveform + noise).astype(np.float32), **settings)


def changed(name, extractor=None, **settings):
    """A tiny model with another extractor, or another setting of its own."""
    model, usual = tiny.make(name)
    if extractor is None:
        extractor = type(usual)(**usual.to_dict() | settings)
    return model, extractor


REFUSED = {
    "another_extractor": (
        lambda: changed("hubert", transformers.WhisperFeatureExtractor()),
        "extractor: expected Wav2Vec2FeatureExtractor for "
        "HubertForSequenceClassification, got WhisperFeatureExtractor",
    ),
    "another_front_end": (
        lambda: changed("ast", Dithered(max_length=64, num_mel_bins=32)),
        r"front end in JAX computes too, up to \S+, got a difference of \S+$",
    ),
    "int16": (
        lambda: changed("wavlm", Int16(do_normalize=False)),
        r"up to 3\.3, got a difference of 3\.3e\+04; it scales samples to 16 bits",
    ),
    "frames": (
        lambda: changed("ast", max_length=100),
        "extractor: expected max_length 64, as ASTForAudioClassification has it, "
        "got 100",
    ),
    "mels": (
        lambda: changed("whisper", feature_size=20),
        "extractor: expected feature_size 16",
    ),
    "seconds": (
        lambda: changed("whisper", chunk_length=30),
        "extractor: expected nb_max_frames 100, .* got 3000",
    ),
    "low_rate": (
        lambda: changed("whisper", sampling_rate=12_000, hop_length=120),
        "extractor: .*high_hz",
    ),
    "half": (
        lambda: (tiny.make("ast")[0].half(), tiny.make("ast")[1]),
        r"model: expected weights torch.float32, got torch.float16; model.float\(\)",
    ),
    "regression": (
        lambda: tiny.make("wav2vec2", problem_type="regression"),
        "model: expected a head of two or more classes, got 3 outputs",
    ),
    "another_head": (
        lambda: (torch.nn.Linear(2, 2), None),
        "model: expected one of transformers' Wav2Vec2ForSequenceClassification, "
        ".*WhisperForAudioClassification, got Linear",
    ),
    "no_extractor": (
        lambda: (tiny.make("ast")[0], None),
        "extractor: expected the model's feature extractor, such as AutoFeature",
    ),
    "shape": (
        lambda: (tiny.make("ast")[0], types.SimpleNamespace()),
        "extractor: expected ASTFeatureExtractor for .*, got SimpleNamespace",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused(kind):
    make, message = REFUSED[kind]
    model, extractor = make()
    with pytest.raises(ValueError, match=message) as info:
        bridges.from_transformers(model, extractor, num_samples=N)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"sample_rate_hz": 8000},
            "sample_rate_hz: expected 16000, the rate of the ASTFeatureExtractor, got",
        ),
        ({"num_samples": 0}, "num_samples: expected an integer"),
        ({"num_samples": 10_481}, "num_samples: expected at most 10480, which is all"),
        ({"num_samples": 100}, "extractor: .* 400 samples, got 100"),
    ],
)
def test_settings_out_of_range(settings, message):
    model, extractor = tiny.make("ast")
    with pytest.raises(ValueError, match=message):
        bridges.from_transformers(model, extractor, **{"num_samples": N} | settings)
