"""Front ends against the libraries that they are those of, where installed."""

import dataclasses
import functools
from pathlib import Path

import frontend_forms as forms
import jax
import librosa
import numpy as np
import pytest
from front_ends import FRONT_ENDS, RATE, N, clips

from uap_jax.models import frontends


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
    path = Path(__file__).parents[2] / "bridges/tflite_files/mfcc.tflite"
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
