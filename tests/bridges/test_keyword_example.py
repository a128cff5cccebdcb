"""The keyword classifier of `experiments/examples`, in PyTorch and in JAX."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uap_jax import attacks, bridges

torch = pytest.importorskip("torch")

EXAMPLES = Path(__file__).parents[2] / "experiments" / "examples"
NUM_CLASSES = 4


@pytest.fixture(scope="module")
def keyword_torch():
    return import_example("keyword_torch")


@pytest.fixture(scope="module")
def keyword_jax():
    return import_example("keyword_jax")


def import_example(name):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        return __import__(name)


@functools.cache
def clips():
    """Tones in noise, `[M, N]` in the box, the last of them silent."""
    rng = np.random.default_rng(0)
    time_s = np.arange(16_000) / 16_000
    frequencies_hz = np.array([200.0, 500.0, 1000.0, 3000.0, 700.0, 0.0])
    tones = np.sin(2 * np.pi * frequencies_hz[:, None] * time_s)
    sounds = 0.3 * tones + 0.02 * rng.standard_normal(tones.shape)
    sounds[-1] = 0.0
    return jnp.asarray(0.5 + 0.5 * sounds, jnp.float32)


@pytest.fixture(scope="module")
def network(keyword_torch):
    """With random weights, and the statistics that the clips have under them."""
    torch.manual_seed(0)
    network = keyword_torch.KeywordNetwork(NUM_CLASSES)
    with torch.no_grad():
        for _ in range(20):
            network(2 * torch.from_numpy(np.array(clips())) - 1)
        network.out.weight.mul_(10.0)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def variables(keyword_jax, network):
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    return keyword_jax.variables_of(state)


def attack(logits, variables):
    """One pass of two steps; v'."""
    config = attacks.PenaltyConfig(
        batch_size=3, max_passes=1, learning_rate=0.01, penalty_coefficient=5.0
    )
    labels = jnp.zeros(len(clips()), jnp.int32)
    result = attacks.penalty(
        *(logits, variables, clips(), labels),
        key=jax.random.key(0),
        target=1,
        config=config,
    )
    assert int(result.num_passes) == 1
    return np.asarray(result.perturbation.value)


@pytest.fixture(scope="module")
def files(keyword_torch, network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("keyword")
    keyword_torch.save(network, folder)
    return {kind: folder / name for kind, name in keyword_torch.FILES.items()}


@pytest.mark.parametrize("route", ["module", "program", "onnx"])
def test_agrees_with_jax(route, keyword_torch, keyword_jax, network, variables, files):
    if route == "onnx":
        try:
            import onnx2torch  # noqa: F401
        # A RuntimeError: of torchvision, if PyTorch is of another version.
        except (ImportError, RuntimeError) as error:
            pytest.skip(f"onnx2torch cannot be loaded: {error}")
    make, source = {
        "module": (bridges.from_torch, network),
        "program": (bridges.from_torch_file, files["program"]),
        "onnx": (bridges.from_onnx, files["onnx"]),
    }[route]
    bridge = make(
        source,
        num_classes=NUM_CLASSES,
        num_samples=keyword_torch.NUM_SAMPLES,
        input_range="waveform",
    )
    expected = keyword_jax.logits(variables, clips())
    assert np.ptp(expected, axis=0).max() > 1.0
    found = bridge.logits(bridge.variables, clips())
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)
    expected = attack(keyword_jax.logits, variables)
    found = attack(bridge.logits, bridge.variables)
    scale = np.max(np.abs(expected))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3 * scale)


def test_weights_survive_the_file(keyword_torch, network, files):
    loaded = keyword_torch.load(files["weights"])
    waveforms = 2 * np.array(clips()) - 1
    np.testing.assert_array_equal(
        keyword_torch.logits_of(loaded, waveforms),
        keyword_torch.logits_of(network, waveforms),
    )
