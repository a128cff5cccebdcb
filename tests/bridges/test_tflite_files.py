"""Networks out of TFLite files, against LiteRT's interpreter."""

import functools
import itertools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uap_jax import bridges
from uap_jax.bridges import checks, custom_models
from uap_jax.bridges import tflite as bridge
from uap_jax.bridges.tflite import run
from uap_jax.errors import UsageError

pytest.importorskip("tflite")

# What `make_files.py` in this folder writes.
FILES = Path(__file__).parent / "tflite_files"
NUM_SAMPLES = 640
STREAMED = 4 * 160
# The float networks and the largest difference of their outputs; one step of int8.
TOLERANCES = {
    "layers_float32": 1e-4,
    "layers_float16": 1e-4,
    "layers_dynamic": 1e-4,
    "layers_int8": 1.01 / 256,
    "spectrum": 1e-4,
    "mfcc": 1e-4,
    "streaming": 1e-4,
}
REST = sorted(TOLERANCES.keys() - {"mfcc", "streaming"})
SETTINGS = {"num_samples": NUM_SAMPLES, "input_range": "waveform"}


def clips(num_clips, num_samples=NUM_SAMPLES):
    """Noise from quiet to full scale, the first silent, `[M, N]` in [-1, 1]."""
    rng = np.random.default_rng(0)
    levels = np.exp(rng.uniform(-5.0, 0.0, (num_clips, 1)))
    levels[0] = 0.0
    noise = levels * rng.standard_normal((num_clips, num_samples))
    return np.clip(noise, -1.0, 1.0).astype(np.float32)


def in_box(waveforms):
    return jnp.asarray(0.5 + 0.5 * waveforms)


@functools.cache
def classifier(name):
    return bridges.from_tflite(FILES / f"{name}.tflite", **SETTINGS)


class Runtime:
    """LiteRT's interpreter as a function on real numbers."""

    def __init__(self, path):
        interpreter = pytest.importorskip("ai_edge_litert.interpreter")
        self._interpreter = interpreter.Interpreter(model_path=str(path))
        self._interpreter.allocate_tensors()
        (self._input,) = self._interpreter.get_input_details()
        (self._output,) = self._interpreter.get_output_details()

    def __call__(self, x):
        x = x.reshape(self._input["shape"])
        scale, zero_point = self._input["quantization"]
        if scale:
            q = np.round(x / np.float32(scale)) + zero_point
            limits = np.iinfo(self._input["dtype"])
            x = np.clip(q, limits.min, limits.max).astype(self._input["dtype"])
        self._interpreter.set_tensor(self._input["index"], x)
        self._interpreter.invoke()
        y = self._interpreter.get_tensor(self._output["index"])
        scale, zero_point = self._output["quantization"]
        return (y.astype(np.float32) - zero_point) * scale if scale else y


@pytest.mark.parametrize("name", TOLERANCES)
def test_agrees_with_the_runtime(name):
    path = FILES / f"{name}.tflite"
    runtime = Runtime(path)
    network = bridge.read_network(path)
    call = jax.jit(network.call)
    state = network.initial_state(network.variables)
    # A streaming network keeps its state from one clip to the next.
    size = 160 if network.is_streaming else NUM_SAMPLES
    differences = []
    for x in clips(100, size):
        shaped = x.reshape(network.input_shape)
        got, state = call(network.variables, state, shaped)
        differences.append(np.max(np.abs(got - runtime(x))))
    if name == "layers_dynamic":
        # Of a clip's 256 steps float32 may choose the next one where it lies between.
        assert max(differences) <= 1e-3
        differences = sorted(differences)[:95]
    assert max(differences) <= TOLERANCES[name]


@pytest.mark.parametrize(
    "name",
    [
        "mfcc",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("layers_float32", "layers_int8", "spectrum")
        ),
    ],
)
def test_logits_are_what_stands_before_the_activation(name):
    runtime = Runtime(FILES / f"{name}.tflite")
    given = classifier(name)
    waveforms = clips(8)
    logits = jax.jit(given.logits)(given.variables, in_box(waveforms))
    expected = np.concatenate([runtime(x) for x in waveforms])
    if name == "mfcc":
        got = logits
    else:
        got = jax.nn.softmax(logits)
        expected = expected if expected.shape[1] > 1 else np.c_[1 - expected, expected]
    tolerance = 2 / 256 if name == "layers_int8" else 1e-4
    np.testing.assert_allclose(got, expected, atol=tolerance)
    checks.check_logits(given, in_box(waveforms))


def test_streaming_keeps_its_state_over_the_clip_and_starts_anew():
    given = classifier("streaming")
    assert given.class_names == ("no detection", "detection")
    waveforms = clips(6)
    logits = jax.jit(given.logits)(given.variables, in_box(waveforms))
    for waveform, row in zip(waveforms, logits, strict=True):
        runtime = Runtime(FILES / "streaming.tflite")
        probability = max(float(runtime(x)[0, 0]) for x in waveform.reshape(4, 160))
        np.testing.assert_allclose(jax.nn.softmax(row)[1], probability, atol=1e-4)


@pytest.mark.parametrize("over_time", ["last", "mean"])
def test_over_time(over_time):
    path = FILES / "streaming.tflite"
    # The last 100 samples do not fill a chunk.
    settings = {"num_samples": 740, "over_time": over_time}
    given = bridges.from_tflite(path, **settings)
    x = jnp.asarray(clips(2, 740))
    network = bridge.read_network(path)
    for clip, row in zip(x, given.logits(given.variables, x), strict=True):
        state, scores = network.initial_state(network.variables), []
        for chunk in clip[:640].reshape(4, 1, 160):
            score, state = network.logits(network.variables, state, chunk)
            scores.append(float(score[0]))
        expected = scores[-1] if over_time == "last" else np.mean(scores)
        np.testing.assert_allclose(row[1], expected, rtol=1e-5, atol=1e-6)


def test_any_batch_size_vmap_and_gradient():
    given = classifier("layers_int8")
    x = in_box(clips(6))
    logits_of = jax.jit(given.logits)
    logits = logits_of(given.variables, x)
    one_by_one = jax.vmap(lambda x: logits_of(given.variables, x[None])[0])(x)
    np.testing.assert_allclose(logits, one_by_one, atol=1e-5)

    def total(x):
        return jnp.sum(given.logits(given.variables, x)[:, 0])

    gradient = jax.jit(jax.grad(total))(x)
    assert np.all(np.isfinite(gradient))
    assert np.all(np.abs(gradient[1:]).max(axis=1) > 0.0)


@pytest.mark.parametrize(
    "name",
    [
        "streaming",
        *(pytest.param(name, marks=pytest.mark.slow) for name in REST),
    ],
)
def test_gradient_against_central_differences(name, monkeypatch):
    """In float64; what rounding adds is held fast: that is "straight-through"."""
    network = bridge.read_network(FILES / f"{name}.tflite")
    rng = np.random.default_rng(1)
    shape = network.input_shape
    x, direction = 0.3 * rng.standard_normal(shape), rng.standard_normal(shape)
    direction /= np.linalg.norm(direction)
    added, is_recorded = [], False

    def hold(what):
        if not is_recorded:
            added.append(what)
        return added[next(position)]

    with jax.enable_x64(True):
        monkeypatch.setattr(run, "hold", hold)
        # Integers that are equal have no gradient of their maximum: a little more
        # than rounding adds parts them.
        monkeypatch.setattr(
            run,
            "round_through",
            lambda x: x + hold(run._round(x) - x + 1e-3 * rng.random(x.shape)),
        )
        variables = {k: jnp.float64(v) for k, v in network.variables.items()}
        state = network.initial_state(variables)

        def logit(x):
            nonlocal position
            position = itertools.count()
            return network.logits(variables, state, x)[0][0]

        position = itertools.count()
        logit(jnp.asarray(x))
        is_recorded = True
        derivative = float(np.vdot(jax.grad(logit)(jnp.asarray(x)), direction))
        ahead, behind = (logit(jnp.asarray(x + s * direction)) for s in (1e-6, -1e-6))
        difference = float(ahead - behind) / 2e-6
    assert abs(difference) > 1e-3
    assert derivative == pytest.approx(difference, rel=1e-3)


@pytest.mark.parametrize("level", [0.0, 1.0])
@pytest.mark.parametrize(
    "name", ["spectrum", pytest.param("mfcc", marks=pytest.mark.slow)]
)
def test_gradient_is_finite_at_silence_and_full_scale(name, level):
    given = classifier(name)
    x = jnp.full((1, NUM_SAMPLES), 0.5 + 0.5 * level)
    gradient = jax.grad(lambda x: jnp.sum(given.logits(given.variables, x)[:, -1]))
    gradient = jax.jit(gradient)(x)
    assert np.all(np.isfinite(gradient))


def test_unknown_operations_are_all_named():
    with pytest.raises(ValueError, match=r"supports, got ARG_MAX, ATAN2, CEIL$"):
        bridges.from_tflite(FILES / "unknown.tflite", num_samples=NUM_SAMPLES)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_samples": 641}, r"expected clips of \[1, 640\], .* got \[641\]"),
        ({"clip_shape": (2, 320)}, r"got \[2, 320\]; is a front end or clip_shape"),
        ({"num_classes": 5}, "expected a network with 5 outputs, got 4"),
        ({"class_names": ("a", "b")}, "expected a network with 2 outputs, got 4"),
        ({"input_range": "int16"}, "input_range: expected"),
        ({"over_time": "min"}, "over_time: expected"),
        ({"threshold": 1.0}, "threshold: expected"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message) as info:
        bridges.from_tflite(FILES / "layers_float32.tflite", **(SETTINGS | settings))
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("damage", ["text", "empty", "half", "bits"])
def test_damaged_or_foreign(damage, tmp_path):
    content = bytearray((FILES / "layers_float32.tflite").read_bytes())
    if damage == "bits":
        content[8:64] = bytes(reversed(content[8:64]))
    parts = {"text": b"hello world", "empty": b"", "half": content[: len(content) // 2]}
    path = tmp_path / f"{damage}.tflite"
    path.write_bytes(parts.get(damage, content))
    with pytest.raises(ValueError, match=f"{damage}.tflite: expected a TFLite") as info:
        bridges.from_tflite(path, num_samples=NUM_SAMPLES)
    assert "\n" not in str(info.value)


def test_library_missing(monkeypatch):
    # None is what the import system takes for a module that is not there.
    monkeypatch.setitem(sys.modules, "tflite", None)
    with pytest.raises(ImportError, match=r"pip install 'uap_jax\[bridges\]'"):
        bridges.from_tflite(FILES / "unknown.tflite", num_samples=NUM_SAMPLES)


def store(folder, name, **facts):
    path = folder / f"{name}.tflite"
    path.write_bytes((FILES / f"{name}.tflite").read_bytes())
    facts = {"sample_rate_hz": 8000, "input_range": "waveform"} | facts
    text = str(facts | {"num_samples": NUM_SAMPLES}).replace("'", '"')
    path.with_name(f"{path.name}.json").write_text(text)
    return str(path)


def test_as_model_of_a_run(tmp_path):
    model = store(tmp_path, "layers_int8", class_names=["a", "b", "c", "d"])
    given, facts = custom_models.load(model)
    assert given.class_names == ("a", "b", "c", "d")
    assert facts["num_classes"] == 4
    x = in_box(clips(3))
    expected = jax.jit(classifier("layers_int8").logits)(given.variables, x)
    np.testing.assert_allclose(
        jax.jit(given.logits)(given.variables, x), expected, atol=1e-5
    )


def test_detector_as_model_of_a_run(tmp_path):
    settings = {"class_names": ["bird"], "threshold": 0.8}
    given, _ = custom_models.load(store(tmp_path, "spectrum", **settings))
    assert given.class_names == ("no bird", "bird")
    x = in_box(clips(3))
    half = jax.jit(classifier("spectrum").logits)(given.variables, x)[:, 1]
    got = jax.jit(given.logits)(given.variables, x)[:, 1]
    np.testing.assert_allclose(got, half - np.log(4.0), rtol=1e-5)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"class_names": ["a", "b"]}, "with 2 outputs, got 4"),
        ({"class_names": []}, "expected one or more different class_names"),
        ({"class_names": ["a"], "threshold": 2}, "threshold: expected a probability"),
    ],
)
def test_mistakes_in_a_run(facts, message, tmp_path):
    with pytest.raises(UsageError, match=message) as info:
        custom_models.load(store(tmp_path, "layers_float32", **facts))
    assert "\n" not in str(info.value)
