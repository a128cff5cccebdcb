"""Classifiers of NumPy functions agree with the same network in JAX."""

import functools
import os
import pathlib
import subprocess
import sys

import bridged_networks as networks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bridged_networks import NUM_CLASSES, NUM_SAMPLES, ascend, assert_close

import uap_jax
from uap_jax import attacks, bridges

SIZES = {"num_classes": NUM_CLASSES, "num_samples": NUM_SAMPLES}


class Counted:
    """A function that counts its calls."""

    def __init__(self, function):
        self.function, self.shapes = function, []

    def __call__(self, *arrays):
        self.shapes.append(arrays[0].shape)
        return self.function(*arrays)


@functools.cache
def bridge():
    return bridges.from_numpy_vjp(
        networks.numpy_forward, networks.numpy_vjp, sample_rate_hz=8000, **SIZES
    )


def counted_bridge():
    forward, vjp = Counted(networks.numpy_forward), Counted(networks.numpy_vjp)
    found = bridges.from_numpy_vjp(forward, vjp, **SIZES)
    # Without the calls on probes.
    forward.shapes, vjp.shapes = [], []
    return found, forward, vjp


def test_states_what_it_takes():
    found = bridge()
    assert (found.num_classes, found.num_samples) == (NUM_CLASSES, NUM_SAMPLES)
    assert found.sample_rate_hz == 8000
    assert jax.tree.leaves(found.variables) == []
    assert len({found, found}) == len({found.logits, found.logits}) == 1


def test_logits_and_gradient():
    networks.assert_agrees(bridge())


def test_waveform_input():
    """The network gets 2 x - 1, and the gradient is with respect to x."""
    found = bridges.from_numpy_vjp(
        networks.numpy_forward, networks.numpy_vjp, input_range="waveform", **SIZES
    )
    x, _ = networks.clips()

    def expected_logits(variables, x):
        return networks.jax_logits(variables, 2.0 * x - 1.0)

    expected = networks.value_and_gradient(expected_logits, networks.weights(), x)
    for part, expected_part in zip(
        networks.value_and_gradient(found.logits, {}, x), expected, strict=True
    ):
        assert_close(part, expected_part)


def test_inside_a_while_loop():
    x, _ = networks.clips()
    found, _, vjp = counted_bridge()
    expected = ascend(networks.jax_logits, networks.weights(), x)
    assert_close(jax.jit(functools.partial(ascend, found.logits, {}))(x), expected)
    assert vjp.shapes == [x.shape] * 5


def test_vmap_is_one_call():
    x, _ = networks.clips()
    stacked = x.reshape(3, 4, NUM_SAMPLES)
    found, forward, vjp = counted_bridge()
    logits = jax.vmap(found.logits, in_axes=(None, 0))({}, stacked)
    assert forward.shapes == [x.shape]
    expected = networks.jax_logits(networks.weights(), x)
    assert_close(logits.reshape(-1, NUM_CLASSES), expected)

    compute = functools.partial(networks.value_and_gradient, found.logits, {})
    _, gradient = jax.jit(jax.vmap(compute))(stacked)
    assert forward.shapes == [x.shape] * 2 and vjp.shapes == [x.shape]
    _, expected = networks.value_and_gradient(
        networks.jax_logits, networks.weights(), x
    )
    assert_close(gradient.reshape(x.shape), expected)

    logits = jax.vmap(jax.vmap(found.logits, in_axes=(None, 0)), in_axes=(None, 0))
    shape = (2, 3, 2, NUM_SAMPLES)
    assert logits({}, x.reshape(shape)).shape == (*shape[:3], NUM_CLASSES)
    assert forward.shapes[-1] == x.shape


def test_vmap_over_cotangents():
    """Rows of a Jacobian: the clips are the same for all."""
    x, _ = networks.clips()

    def rows(logits, variables):
        _, pull_back = jax.vjp(lambda x: logits(variables, x), x)
        unit = jnp.eye(NUM_CLASSES)[:, None, :]
        unit = jnp.broadcast_to(unit, (NUM_CLASSES, len(x), NUM_CLASSES))
        return jax.vmap(pull_back)(unit)[0]

    expected = rows(networks.jax_logits, networks.weights())
    assert_close(rows(bridge().logits, {}), expected)


def test_no_jax_array_on_the_way():
    """Inside a program on a processor, waiting for one may be waiting for oneself.

    As `pure_callback` does, which hands over arrays that are still being copied:
    github.com/jax-ml/jax/issues/24255.
    """
    x, _ = networks.clips()
    compute = functools.partial(networks.value_and_gradient, bridge().logits, {})
    program = jax.jit(compute).lower(x).as_text()
    assert program.count("xla_buffer_python_cpu_callback") == 2
    assert "xla_ffi_python_cpu_callback" not in program


def test_as_on_accelerators(monkeypatch):
    """There, arrays are copied to the host by `pure_callback`."""
    monkeypatch.setattr(
        jax.lax, "platform_dependent", lambda *x, cpu, default: default(*x)
    )
    found, forward, vjp = counted_bridge()
    x, _ = networks.clips()
    compute = functools.partial(networks.value_and_gradient, found.logits, {})
    _, gradient = jax.jit(jax.vmap(compute))(x.reshape(3, 4, NUM_SAMPLES))
    assert forward.shapes == [x.shape] and vjp.shapes == [x.shape]
    _, expected = networks.value_and_gradient(
        networks.jax_logits, networks.weights(), x
    )
    assert_close(gradient.reshape(x.shape), expected)


def test_functions_own_what_they_get():
    kept = []

    def forward(x):
        kept.append(x)
        logits = networks.numpy_forward(x)
        # Columns of another order are not contiguous.
        return np.asfortranarray(logits)

    def vjp(x, cotangents):
        gradient = networks.numpy_vjp(x, cotangents)
        x[...] = 0.0
        return gradient

    found = bridges.from_numpy_vjp(forward, vjp, **SIZES)
    kept.clear()
    x, _ = networks.clips()
    ascended = jax.jit(functools.partial(ascend, found.logits, {}))(x)
    assert_close(ascended, ascend(networks.jax_logits, networks.weights(), x))
    np.testing.assert_array_equal(kept[0], x)


@pytest.mark.parametrize("name", networks.ATTACKS)
def test_attacks(name):
    expected = networks.expected_of_attack(name)
    assert np.any(expected != 0)
    found = networks.run_attack(name, bridge().logits, bridge().variables)
    assert_close(found, expected, tolerance=1e-3)


def test_from_numpy_has_logits_only():
    found = bridges.from_numpy(networks.numpy_forward, **SIZES)
    x, labels = networks.clips()
    assert_close(found.logits({}, x), networks.jax_logits(networks.weights(), x))
    message = "bridge: expected a classifier with a gradient.*from_numpy_vjp"
    with pytest.raises(ValueError, match=message):
        jax.jit(functools.partial(networks.value_and_gradient, found.logits, {}))(x)
    with pytest.raises(ValueError, match=message):
        attacks.ddn(found.logits, found.variables, x, labels)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"num_classes": 1},
            "num_classes: expected an integer in 2",
        ),
        ({"num_samples": 0.5}, "num_samples: expected an integer"),
        ({"sample_rate_hz": 0}, "sample_rate_hz: expected an integer"),
        ({"input_range": "pcm"}, "input_range: expected one of"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        bridges.from_numpy(networks.numpy_forward, **SIZES | settings)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((NUM_SAMPLES,), jnp.float32),
        ((2, NUM_SAMPLES + 1), jnp.float32),
        ((2, NUM_SAMPLES), jnp.int32),
    ],
)
def test_clips_of_another_kind(shape, dtype):
    x = jnp.zeros(shape, dtype)
    with pytest.raises(ValueError, match=r"x: expected float32 \[B, 48\], got"):
        bridge().logits({}, x)


def test_loads_no_other_framework():
    program = (
        "import sys, uap_jax.bridges\n"
        "print([name for name in ('torch', 'onnx') if name in sys.modules])"
    )
    package = pathlib.Path(uap_jax.__file__).parents[1]
    path = os.pathsep.join([str(package), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == "[]"
