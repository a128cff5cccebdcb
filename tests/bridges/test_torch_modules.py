"""PyTorch modules agree with the same network in JAX."""

import functools
import threading

import bridged_networks as networks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bridged_networks import NUM_CLASSES, NUM_SAMPLES, ascend, assert_close

from uap_jax import bridges

torch = pytest.importorskip("torch")
modules = pytest.importorskip("bridged_modules")

SIZES = {"num_classes": NUM_CLASSES, "num_samples": NUM_SAMPLES}


@functools.cache
def bridge():
    return bridges.from_torch(modules.Network(), sample_rate_hz=8000, **SIZES)


def recorded(**settings):
    module = modules.Recorded()
    found = bridges.from_torch(module, **SIZES | settings)
    # Without the calls on probes.
    module.shapes, module.num_threads = [], []
    return found, module


def gradient_of(logits, variables, x):
    return networks.value_and_gradient(logits, variables, x)[1]


def expected_gradient(x):
    return gradient_of(networks.jax_logits, networks.weights(), x)


def test_logits_and_gradient():
    assert bridge().sample_rate_hz == 8000
    networks.assert_agrees(bridge())


def test_jit_is_eager_to_the_bit():
    x, _ = networks.clips()
    eager = bridge().logits({}, x)
    np.testing.assert_array_equal(jax.jit(bridge().logits)({}, x), eager)


def test_inside_a_while_loop():
    """A step takes one forward pass: its graph is there for the gradient."""
    x, _ = networks.clips()
    found, module = recorded()
    expected = ascend(networks.jax_logits, networks.weights(), x)
    assert_close(jax.jit(functools.partial(ascend, found.logits, {}))(x), expected)
    assert module.shapes == [x.shape] * 5


def test_vmap_is_one_call():
    x, _ = networks.clips()
    found, module = recorded()
    gradient = jax.jit(jax.vmap(functools.partial(gradient_of, found.logits, {})))
    stacked = x.reshape(3, 4, NUM_SAMPLES)
    assert_close(gradient(stacked).reshape(x.shape), expected_gradient(x))
    assert module.shapes == [x.shape]


def test_gradients_in_any_order():
    """The graph is kept for the last clips only; others run again."""
    first, _ = networks.clips()
    second = 1.0 - first
    found, module = recorded()

    def start(x):
        return jax.vjp(lambda x: found.logits({}, x), x)

    logits, pull_back_first = start(first)
    _, pull_back_second = start(second)
    cotangents = jnp.ones_like(logits)

    def expected(x):
        _, pull_back = jax.vjp(lambda x: networks.jax_logits(networks.weights(), x), x)
        return pull_back(cotangents)[0]

    assert len(module.shapes) == 2
    assert_close(pull_back_first(cotangents)[0], expected(first))
    assert_close(pull_back_second(cotangents)[0], expected(second))
    assert_close(pull_back_second(cotangents)[0], expected(second))
    assert len(module.shapes) == 5


def test_calls_from_several_threads():
    x, _ = networks.clips()
    compute = jax.jit(functools.partial(ascend, bridge().logits, {}))
    inputs = [x * (0.5 + 0.1 * index) for index in range(4)]
    found = [None] * len(inputs)

    def work(index):
        found[index] = np.asarray(compute(inputs[index]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    for result, x in zip(found, inputs, strict=True):
        assert_close(result, ascend(networks.jax_logits, networks.weights(), x))


def test_attack():
    found = networks.run_attack("penalty", bridge().logits, bridge().variables)
    assert_close(found, networks.expected_of_attack("penalty"), tolerance=1e-3)


def test_waveform_and_clip_shape():
    found, module = recorded(input_range="waveform", clip_shape=(1, NUM_SAMPLES))
    x, _ = networks.clips()
    assert_close(gradient_of(found.logits, {}, x), 2.0 * expected_gradient(2.0 * x - 1))
    assert module.shapes == [(len(x), 1, NUM_SAMPLES)]


def test_num_threads_is_for_the_call_only():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        x, _ = networks.clips()
        for num_threads, expected in ((1, 1), (None, 2)):
            found, module = recorded(num_threads=num_threads)
            gradient_of(found.logits, {}, x)
            found.logits({}, x)
            assert module.num_threads == [expected] * 2
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_weights_are_read_at_every_call():
    found, module = recorded()
    x, _ = networks.clips()
    compute = jax.jit(found.logits)
    before = compute({}, x)
    with torch.no_grad():
        module.out.bias.add_(1.0)
    np.testing.assert_allclose(compute({}, x), before + 1.0, rtol=0, atol=1e-5)
    assert compute._cache_size() == 1


def test_a_module_may_write_to_its_input():
    class Centered(modules.Network):
        def forward(self, x):
            return super().forward(x.sub_(x.mean(1, keepdim=True)))

    found = bridges.from_torch(Centered(), **SIZES)
    x, _ = networks.clips()
    kept = np.array(x)

    def expected_logits(variables, x):
        x = x - jnp.mean(x, axis=1, keepdims=True)
        return networks.jax_logits(variables, x)

    expected = gradient_of(expected_logits, networks.weights(), x)
    assert_close(gradient_of(found.logits, {}, x), expected)
    assert_close(found.logits({}, x), expected_logits(networks.weights(), x))
    np.testing.assert_array_equal(x, kept)


def test_is_put_into_evaluation_mode():
    module = modules.Network().train()
    bridges.from_torch(module, **SIZES)
    assert not any(layer.training for layer in module.modules())


def test_refuses_what_falls_back_to_training_mode():
    module = modules.Network()
    found = bridges.from_torch(module, **SIZES)
    compute = jax.jit(found.logits)
    x, _ = networks.clips()
    compute({}, x)
    module.norm.train()
    # JAX chooses the type of what is raised inside a program.
    with pytest.raises(
        (ValueError, jax.errors.JaxRuntimeError), match="module: expected evaluation"
    ):
        compute({}, x)


class NeverEval(torch.nn.Module):
    def train(self, mode=True):
        return super().train(True)

    def forward(self, x):
        return x[:, :NUM_CLASSES]


class AlwaysDropout(torch.nn.Module):
    """Random in evaluation mode, too."""

    def forward(self, x):
        return torch.nn.functional.dropout(x[:, :NUM_CLASSES], 0.5, training=True)


REFUSED = {
    "function": (lambda: torch.tanh, "expected a torch.nn.Module, got builtin"),
    "training_mode": (NeverEval, "expected evaluation mode, got a layer in training"),
    "random": (AlwaysDropout, "logits that depend on the clip alone"),
    "probabilities": (
        lambda: modules.Changed(lambda logits: torch.softmax(logits, 1)),
        "expected logits, got rows .* leave out the softmax",
    ),
    "tuple": (
        lambda: modules.Changed(lambda logits: (logits, logits)),
        "expected logits as a tensor, got tuple",
    ),
    "dtype": (lambda: modules.Changed(lambda logits: logits.double()), "got float64"),
    "bfloat16": (
        lambda: modules.Changed(lambda logits: logits.bfloat16()),
        "for 3 clips of 48 samples, got TypeError",
    ),
    "double_weights": (lambda: modules.Network().double(), "got RuntimeError"),
    "shape": (
        lambda: modules.Changed(lambda logits: logits[:, 1:]),
        r"float32 \(3, 4\), got float32 \(3, 3\)",
    ),
    "detached": (
        lambda: modules.Changed(lambda logits: logits.detach()),
        "expected logits with a gradient, got some that are detached",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused(kind):
    torch.manual_seed(0)
    make, message = REFUSED[kind]
    with pytest.raises(ValueError, match=f"^module: .*{message}"):
        bridges.from_torch(make(), **SIZES)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_threads": 0}, "num_threads: expected an integer in 1.*, got 0"),
        ({"clip_shape": (2, 23)}, "clip_shape: expected 48 samples in all"),
        ({"num_classes": 1}, "num_classes: expected an integer"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        bridges.from_torch(modules.Network(), **SIZES | settings)
