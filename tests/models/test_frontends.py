"""Front ends against float64 forms of their formulas and against their originals."""

import dataclasses
import functools
from pathlib import Path

import frontend_forms as forms
import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest

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


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_formula(name):
    x = clips()
    features, gradient = compiled(name)(x)
    expected = np.stack([FRONT_ENDS[name][1](clip) for clip in x])
    assert features.dtype == jnp.float32
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-4)
    # At silence and full scale too.
    assert np.isfinite(gradient).all()
    assert np.abs(gradient[1:]).max(axis=1).all()


QUICK = ("kaldi_mfcc", "tf_op_mfcc", "whisper")
ALL = [pytest.param(n, marks=[pytest.mark.slow] * (n not in QUICK)) for n in FRONT_ENDS]


@pytest.mark.parametrize("name", ALL)
def test_eager_and_single_clips(name):
    front_end = FRONT_ENDS[name][0]
    x = clips()
    features = compiled(name)(x)[0]
    np.testing.assert_allclose(front_end(x), features, rtol=1e-5, atol=2e-5)
    single = jax.vmap(lambda clip: front_end(clip[None])[0])(x)
    np.testing.assert_allclose(single, features, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_types(name):
    """That of the waveform, whatever JAX's default is."""
    with jax.enable_x64(True):
        for dtype in (jnp.float32, jnp.float64):
            clip = jax.ShapeDtypeStruct((2, N), dtype)
            assert jax.eval_shape(FRONT_ENDS[name][0], clip).dtype == dtype


@pytest.mark.parametrize("name", ALL)
def test_directional_derivative(name):
    """Against central differences, in float64."""
    with jax.enable_x64(True):
        x = jnp.asarray(clips()[2:5], jnp.float64)
        run = compiled(name)
        features, gradient = run(x)
        rng = np.random.default_rng(1)
        step = 1e-6 * rng.standard_normal(x.shape)
        ahead, back = np.asarray(run(x + step)[0]), np.asarray(run(x - step)[0])
        change = (ahead - back) * weights(features.shape)
        change = np.sum(change.reshape(len(x), -1), axis=1)
        expected = 2 * np.sum(gradient * step, axis=1)
        np.testing.assert_allclose(change, expected, rtol=1e-3)


@pytest.mark.filterwarnings("ignore:At least one mel filter:UserWarning")
def test_against_transformers():
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    x = clips()
    originals = {
        "wav2vec2": transformers.Wav2Vec2FeatureExtractor(),
        "whisper": transformers.WhisperFeatureExtractor(),
        "ast": transformers.ASTFeatureExtractor(),
    }
    for name, extractor in originals.items():
        outputs = extractor(list(x), sampling_rate=RATE)
        expected = np.stack(next(iter(outputs.values())))
        front_end = FRONT_ENDS[name][0]
        if isinstance(front_end, functools.partial):
            front_end = front_end.func
        np.testing.assert_allclose(front_end(x), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "original"),
    [
        ({}, {}),
        (
            {"scale": "htk", "unit_area": False, "power": 1.0, "range_db": None},
            {"htk": True, "norm": None, "power": 1.0},
        ),
        (
            {"centre": False, "low_hz": 50.0, "high_hz": 7_000.0, "reference": "max"},
            {"center": False, "fmin": 50, "fmax": 7_000},
        ),
        (
            {"pad_mode": "reflect", "window_size": 300, "window": "hamming"},
            {"pad_mode": "reflect", "win_length": 300, "window": "hamming"},
        ),
    ],
)
def test_against_librosa(settings, original):
    x = clips()[1:]
    config = dataclasses.replace(
        frontends.LibrosaConfig(RATE, num_fft=512, hop=200, num_mels=40), **settings
    )
    levels = frontends.librosa_log_mel(x, config)
    cepstra = frontends.librosa_mfcc(x, config, num_mfcc=12, lifter_length=20)
    for clip, level, coefficients in zip(x, levels, cepstra, strict=True):
        bands = librosa.feature.melspectrogram(
            y=clip.astype(np.float64),
            sr=RATE,
            n_fft=512,
            hop_length=200,
            n_mels=40,
            **original,
        )
        reference = np.max if config.reference == "max" else 1.0
        expected = librosa.power_to_db(bands, ref=reference, top_db=config.range_db)
        np.testing.assert_allclose(level, expected, atol=1e-4)
        expected = librosa.feature.mfcc(S=expected, n_mfcc=12, lifter=20)
        np.testing.assert_allclose(coefficients, expected, rtol=1e-5, atol=1e-3)


@pytest.mark.filterwarnings("ignore:The .warn. function:DeprecationWarning")
def test_against_python_speech_features():
    original = pytest.importorskip("python_speech_features")
    x = clips()
    config = frontends.SpeechFeaturesConfig(
        frame_s=0.04, hop_s=0.0201, num_mels=40, low_hz=20.0, window="hamming"
    )
    settings = {"nfilt": 40, "lowfreq": 20, "winfunc": np.hamming}
    settings |= {"winlen": 0.04, "winstep": 0.0201, "ceplifter": 0}
    cepstra = frontends.speech_features_mfcc(x, config, lifter_length=0, energy=False)
    expected = [
        original.mfcc(clip.astype(np.float64), appendEnergy=False, **settings)
        for clip in x
    ]
    np.testing.assert_allclose(cepstra, np.stack(expected), atol=1e-4)
    bands = frontends.speech_features_log_mel(x)
    expected = [original.logfbank(clip.astype(np.float64)) for clip in x]
    np.testing.assert_allclose(bands, np.stack(expected), atol=1e-4)


@pytest.mark.parametrize("snip_edges", [True, False])
def test_kaldi_against_transformers(snip_edges):
    """Energy first, and frames that are mirrored at the ends."""
    audio_utils = pytest.importorskip("transformers.audio_utils")
    x = clips()[1:]
    config = frontends.KaldiConfig(num_mels=40, energy=True, snip_edges=snip_edges)
    bank = audio_utils.mel_filter_bank(
        257, 40, 20, 8_000, RATE, mel_scale="kaldi", triangularize_in_mel_space=True
    )
    for clip, features in zip(x, frontends.kaldi_fbank(x, config), strict=True):
        samples = clip.astype(np.float64)
        if not snip_edges:
            # 120 samples before, so that frames are centred on the middle of a hop.
            num_frames = (N + 80) // 160
            samples = np.concatenate([samples[119::-1], samples, samples[::-1]])
            samples = samples[: (num_frames - 1) * 160 + 400]
        expected = audio_utils.spectrogram(
            samples,
            audio_utils.window_function(400, "povey", periodic=False),
            400,
            160,
            512,
            power=2.0,
            center=False,
            preemphasis=0.97,
            mel_filters=bank,
            log_mel="log",
            mel_floor=forms.EPS,
            remove_dc_offset=True,
        )
        np.testing.assert_allclose(features[:, 1:], expected.T, atol=1e-4)
        frames = np.lib.stride_tricks.sliding_window_view(samples, 400)[::160]
        frames = frames - frames.mean(axis=1, keepdims=True)
        energy = np.log(np.maximum(np.sum(frames**2, axis=1), 1.0))
        np.testing.assert_allclose(features[:, 0], energy, atol=1e-4)


@pytest.mark.filterwarnings("ignore:Warning. Enabling .experimental:UserWarning")
def test_against_the_ops_of_tensorflow_lite():
    lite = pytest.importorskip("ai_edge_litert.interpreter")
    path = Path(__file__).parents[1] / "bridges/tflite_files/mfcc.tflite"
    interpreter = lite.Interpreter(
        str(path), experimental_preserve_all_tensors=True, num_threads=1
    )
    interpreter.allocate_tensors()
    ops = {op["op_name"]: op for op in interpreter._get_ops_details()}
    outputs = {"AudioSpectrogram": [], "Mfcc": []}
    x = clips()[:, 100:740]
    for clip in x:
        interpreter.set_tensor(
            interpreter.get_input_details()[0]["index"], clip[:, None]
        )
        interpreter.invoke()
        for name, values in outputs.items():
            values.append(interpreter.get_tensor(ops[name]["outputs"][0])[0].copy())
    power = frontends.tf_spectrogram(x, frame=160, hop=80, power=True)
    np.testing.assert_allclose(power, outputs["AudioSpectrogram"], rtol=1e-5, atol=1e-4)
    features = frontends.tf_op_mfcc(
        power, sample_rate_hz=8000, num_mels=12, num_mfcc=10
    )
    np.testing.assert_allclose(features, outputs["Mfcc"], atol=1e-4)


def test_against_pymicro_features():
    original = pytest.importorskip("pymicro_features")
    rng = np.random.default_rng(0)
    time = np.arange(2 * RATE) / RATE
    tone = np.sin(2 * np.pi * 300 * time) + 0.3 * rng.standard_normal(len(time))
    syllables = np.sin(2 * np.pi * 1.3 * time) ** 4 * tone
    x = 0.1 * syllables + 1e-4 * rng.standard_normal(len(time))
    samples = np.round(32768 * x).astype(np.int16)
    front_end, expected = original.MicroFrontend(), []
    for chunk in samples.reshape(-1, 160):
        output = front_end.process_samples(chunk.tobytes())
        expected += [output.features] if output.features else []
    # The package gives multiples of 25.6 / 64.
    expected = 25.6 * np.array(expected)
    waveform = (samples / 32768).astype(np.float32)[None]
    config = frontends.MICRO_WAKE_WORD
    features = jax.jit(lambda x: frontends.micro_log_mel(x, config))(waveform)[0]
    errors = np.abs(features - expected)
    # Its Fourier transform has 16 bits; a quiet band is above 0 or not.
    assert np.mean(expected > 0) > 0.3
    assert np.mean(errors) < 1
    assert np.mean(errors <= 4) > 0.95


def test_gain_control_needs_noise_reduction():
    config = frontends.MicroConfig(gain_control=True)
    with pytest.raises(ValueError, match="noise_reduction"):
        frontends.micro_log_mel(clips(), config)


def test_gradient_through_rounding():
    """That of the front end without it, up to what rounding changes in its values."""
    x = 0.3 * clips()[2:4]
    config = frontends.MicroConfig()

    @functools.partial(jax.jit, static_argnames="config")
    def gradient(x, config):
        return jax.grad(lambda x: jnp.sum(frontends.micro_log_mel(x, config)))(x)

    with_it = gradient(x, dataclasses.replace(config, rounding=True))
    without = gradient(x, config)
    cosine = np.sum(with_it * without) / np.linalg.norm(with_it)
    assert cosine > 0.99 * np.linalg.norm(without)


def test_whisper_of_a_longer_clip():
    x = clips()
    cut = frontends.whisper_log_mel(x, num_samples=4_000)
    expected = [forms.whisper(clip, whisper_bank(), num_samples=4_000) for clip in x]
    np.testing.assert_allclose(cut, np.stack(expected), atol=1e-4)


@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (np.zeros((1, 800), np.int16), "float32 or float64"),
        (np.zeros((1, 800), np.float16), "float32 or float64"),
        (np.zeros(800, np.float32), r"\[B, N\]"),
        (np.zeros((1, 399), np.float32), "at least 400 samples"),
    ],
)
def test_refused_waveforms(waveform, message):
    with pytest.raises(ValueError, match=message):
        frontends.ast_fbank(waveform)
