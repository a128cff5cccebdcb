"""The networks for environmental sounds: Tables 12 to 16, learning, and the edges."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uap_jax import attacks, models
from uap_jax.models import (
    cnn_gamma,
    cnn_rand,
    envnet_v2,
    kernels,
    registry,
    sincnet,
    sincnet_vgg19,
)
from uap_jax.models.gammatone import gammatone_bank
from uap_jax.models.sinc import SincBank, initial_bands_hz

NUM_SAMPLES = 50_999
# Compiling takes nearly all the time here.
QUICKLY: Any = {"xla_backend_optimization_level": 0}
NAMES = tuple(name for name in models.MODEL_NAMES if name != "spchcmd")

# Rows of the tables for two clips, strides and channels as their shapes demand.
TABLES: dict[str, dict[str, tuple[int, ...]]] = {
    "cnn_rand": {
        "trunk/block_0/conv": (25_468, 16),
        "trunk/block_0": (3_183, 16),
        "trunk/block_1/conv": (1_576, 32),
        "trunk/block_1": (197, 32),
        "trunk/block_2": (91, 64),
        "trunk/block_3": (42, 128),
        "trunk/block_4/conv": (20, 256),
        "trunk/block_4": (5, 256),
        "head/dense_0": (128,),
        "head/dense_1": (64,),
        "head/logits": (10,),
    },
    "cnn_gamma": {
        "bank": (6_311, 64),
        "trunk/block_0/conv": (3_140, 32),
        "trunk/block_0": (392, 32),
        "trunk/block_1": (189, 64),
        "trunk/block_2": (91, 128),
        "trunk/block_3/conv": (44, 256),
        "trunk/block_3": (11, 256),
        "head/dense_0": (128,),
        "head/dense_1": (64,),
        "head/logits": (10,),
    },
    "envnet_v2": {
        "wave_0": (25_468, 32),
        "wave_1/conv": (12_727, 64),
        "wave_1": (198, 64),
        "map_0": (57, 191, 32),
        "map_1/conv": (50, 184, 32),
        "map_1": (10, 61, 32),
        "map_2": (10, 58, 64),
        "map_3/conv": (10, 55, 64),
        "map_3": (10, 27, 64),
        "map_4": (10, 26, 128),
        "head/dense_0": (4_096,),
        "head/dense_1": (4_096,),
        "head/logits": (10,),
    },
    "envnet_v2_deep": {
        "map_4/conv": (10, 26, 128),
        "map_4": (10, 13, 128),
        "map_5": (10, 12, 256),
        "map_6/conv": (10, 11, 256),
        "map_6": (10, 5, 256),
        "head/dense_0": (4_096,),
        "head/logits": (10,),
    },
    "sincnet": {
        "sinc": (16_916, 80),
        "conv_0": (16_912, 60),
        "conv_norm_0": (5_637, 60),
        "conv_1": (5_633, 60),
        "conv_norm_1": (5_633, 60),
        "dense_0": (128,),
        "dense_1": (64,),
        "logits": (10,),
    },
    "sincnet_vgg19": {
        "sinc": (232, 227),
        "conv_0_0": (232, 227, 64),
        "conv_1_1": (116, 113, 128),
        "conv_2_3": (58, 56, 256),
        "conv_3_3": (29, 28, 512),
        "conv_4_3": (14, 14, 512),
        "head/dense_0": (4_096,),
        "head/logits": (10,),
    },
}

# Trained parameters with 10 classes, and the frozen ones.
NUM_PARAMETERS = {
    "cnn_rand": (421_146, 0),
    "cnn_gamma": (665_962, 32_832),
    "envnet_v2": (153_285_866, 0),
    "envnet_v2_deep": (69_597_930, 0),
    "sincnet": (43_313_538, 0),
    "sincnet_vgg19": (122_829_654, 0),
}

# Networks small enough to run here, and the samples of their clips.
SMALL: dict[str, tuple[nn.Module, int]] = {
    "cnn_rand": (cnn_rand.CNNRand(2), 17_438),
    "cnn_gamma": (cnn_gamma.CNNGamma(2), 9_300),
    "envnet_v2": (envnet_v2.EnvNetV2(2, hidden=(32, 32)), 11_400),
    "sincnet": (sincnet.SincNet(2), 2_000),
    "sincnet_vgg19": (
        sincnet_vgg19.SincNetVGG19(
            2, groups=((1, 4), (1, 8), (2, 8), (1, 8), (1, 8)), hidden=(32,)
        ),
        7_300,
    ),
}


def outputs_of(name: str, num_samples: int) -> dict[str, tuple[int, ...]]:
    """Shapes of every module's output for two clips; computes nothing."""
    module = registry._ENTRIES[name].network(10)

    def run(key, x):
        variables = module.init(key, x)
        _, state = module.apply(
            variables, x, capture_intermediates=True, mutable=["intermediates"]
        )
        return state["intermediates"]

    x = jax.ShapeDtypeStruct((2, num_samples), jnp.float32)
    with pytest.MonkeyPatch.context() as patch:
        # The plain form, in which every layer stands by itself.
        patch.setattr(kernels, "ops", lambda: kernels.plain)
        outputs = jax.eval_shape(run, jax.random.key(0), x)
    return {
        "/".join(key.key for key in path[:-2]): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(outputs)
    }


def small(name: str) -> models.Architecture:
    module, num_samples = SMALL[name]
    return registry.as_functions(module, name=name, num_samples=num_samples)


@dataclasses.dataclass(frozen=True)
class Running:
    """A small network with weights, and its outputs for four clips at the edges."""

    spec: models.Architecture
    variables: Any
    x: jax.Array  # silence, a constant, a full-scale square, noise
    logits: jax.Array
    gradient: jax.Array


def clips_at_the_edges(num_samples: int) -> jax.Array:
    square = np.where(np.arange(num_samples) % 40 < 20, 0.0, 1.0)
    noise = np.random.default_rng(2).uniform(size=num_samples)
    levels = [np.full(num_samples, level) for level in (0.5, 0.3)]
    return jnp.asarray(np.stack([*levels, square, noise]), jnp.float32)


def draw_variables(spec: models.Architecture) -> Any:
    """The variables of `spec.init`, drawn by NumPy to compile nothing."""
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        name = path[-1].key
        if name == "filters":
            value = gammatone_bank()
        elif name in ("low", "width"):
            bands = initial_bands_hz(leaf.size, sample_rate_hz=spec.sample_rate_hz)
            value = bands[name == "width"] / spec.sample_rate_hz
        elif leaf.ndim == 1:
            value = np.full(leaf.shape, 1.0 if name in ("scale", "var") else 0.0)
        else:
            fan_in = leaf.size // leaf.shape[-1]
            value = rng.normal(size=leaf.shape) * np.sqrt(2 / fan_in)
        return jnp.asarray(value, jnp.float32)

    shapes = jax.eval_shape(spec.init, jax.random.key(0))
    return jax.tree_util.tree_map_with_path(draw, shapes)


def evaluation_of(spec: models.Architecture):
    """Returns a compiled function of variables and x: logits, and a gradient by x."""

    def evaluate(variables, x):
        logits, pull_back = jax.vjp(lambda x: spec.logits(variables, x), x)
        return logits, pull_back(jnp.ones_like(logits).at[:, 1].set(-1.0))[0]

    return jax.jit(evaluate, compiler_options=QUICKLY)


EVALUATIONS: dict[str, Any] = {}


@pytest.fixture(scope="module", params=SMALL)
def running(request) -> Running:
    spec = small(request.param)
    variables = draw_variables(spec)
    x = clips_at_the_edges(spec.num_samples)
    evaluate = EVALUATIONS.setdefault(request.param, evaluation_of(spec))
    return Running(spec, variables, x, *evaluate(variables, x))


@pytest.mark.parametrize("name", NAMES)
def test_every_row_of_its_table(name):
    shapes = outputs_of(name, NUM_SAMPLES)
    assert shapes[""] == (2, 10)
    for layer, shape in TABLES[name].items():
        assert shapes[layer] == (2, *shape), layer


@pytest.mark.parametrize(
    ("bank", "shape"),
    [
        (SincBank(sincnet.NUM_FILTERS), (50_749, 80)),
        (SincBank(sincnet_vgg19.NUM_FILTERS), (50_749, 227)),
    ],
)
def test_sinc_banks_before_their_pooling(bank, shape):
    x = jax.ShapeDtypeStruct((2, NUM_SAMPLES), jnp.float32)
    y, _ = jax.eval_shape(bank.init_with_output, jax.random.key(0), x)
    assert y.shape == (2, *shape)


@pytest.mark.parametrize("name", NAMES)
def test_number_of_parameters(name):
    spec = models.create(name, num_classes=10)
    assert spec.num_samples == NUM_SAMPLES
    variables = jax.eval_shape(spec.init, jax.random.key(0))
    trained, frozen = (
        sum(leaf.size for leaf in jax.tree.leaves(variables.get(collection, {})))
        for collection in ("params", "frozen")
    )
    assert (trained, frozen) == NUM_PARAMETERS[name]


@pytest.mark.parametrize("name", NAMES)
def test_shortest_clip_leaves_one_step(name):
    shortest = registry._ENTRIES[name].min_num_samples
    assert outputs_of(name, shortest)[""] == (2, 10)
    with pytest.raises(ValueError, match="x: expected at least"):
        outputs_of(name, shortest - 1)
    with pytest.raises(ValueError, match=f"num_samples: expected at least {shortest} "):
        models.create(name, num_classes=10, num_samples=shortest - 1)


def test_logits_and_gradients_are_finite_at_the_edges(running):
    for values in (running.logits, running.gradient):
        assert bool(jnp.all(jnp.isfinite(values)))
    # A clip of sound moves the logits; a constant is silence, its mean being removed.
    assert float(jnp.abs(running.gradient[3]).max()) > 0
    np.testing.assert_array_equal(running.logits[0], running.logits[1])
    assert float(jnp.abs(running.logits[2] - running.logits[0]).max()) > 1e-3


def test_logits_of_a_clip_are_its_own(running):
    others = running.x[jnp.array([3, 0, 2, 1])]
    logits, gradient = EVALUATIONS[running.spec.name](running.variables, others)
    for value, expected in ((logits, running.logits), (gradient, running.gradient)):
        assert np.array_equal(value[2], expected[2])
        np.testing.assert_allclose(
            value[0], expected[3], rtol=0, atol=1e-5 * float(jnp.abs(expected[3]).max())
        )


def test_forms_give_the_same_network(running, monkeypatch):
    assert kernels.ops() is kernels.fast
    monkeypatch.setattr(kernels, "ops", lambda: kernels.plain)
    evaluate = evaluation_of(small(running.spec.name))
    logits, gradient = evaluate(running.variables, running.x)
    np.testing.assert_allclose(running.logits, logits, rtol=1e-3, atol=1e-5)
    # Of sound alone: where values tie, as in silence, the forms may choose differently.
    # Rounding decides a near tie too, hence the norm.
    difference = jnp.linalg.norm(running.gradient[3] - gradient[3])
    assert float(difference / jnp.linalg.norm(gradient[3])) < 0.03


@pytest.mark.slow
@pytest.mark.parametrize("running", ["envnet_v2"], indirect=True)
def test_convolutions_of_many_clips_part_by_part_are_the_same(running):
    order = jnp.array([3, 0, 2, 1, 3, 2])
    assert envnet_v2.clips_at_once(len(order)) == 3
    logits, gradient = EVALUATIONS[running.spec.name](
        running.variables, running.x[order]
    )
    for value, expected in ((logits, running.logits), (gradient, running.gradient)):
        scale = float(jnp.abs(expected).max())
        np.testing.assert_allclose(value, expected[order], rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize(
    ("num_clips", "expected"), [(1, 1), (5, 5), (7, 7), (8, 4), (25, 5), (100, 5)]
)
def test_parts_divide_the_clips(num_clips, expected):
    assert envnet_v2.clips_at_once(num_clips) == expected


@pytest.mark.slow
def test_a_few_steps_teach_it_two_tones(running):
    spec = running.spec
    time_s = np.arange(spec.num_samples) / spec.sample_rate_hz
    rng = np.random.default_rng(0)
    labels = jnp.array([0, 1, 0, 1])
    tones = np.sin(2 * np.pi * np.array([300.0, 2_500.0])[labels, None] * time_s)
    noise = 0.05 * rng.normal(size=tones.shape)
    x = jnp.asarray(0.5 + 0.2 * tones + 0.1 * noise, jnp.float32)
    frozen = {
        name: part for name, part in running.variables.items() if name != "params"
    }

    @functools.partial(jax.jit, compiler_options=QUICKLY)
    def step(params, frozen, key):
        def loss_fn(params):
            logits, statistics = spec.apply_train({"params": params, **frozen}, x, key)
            chosen = jnp.take_along_axis(nn.log_softmax(logits), labels[:, None], 1)
            return -jnp.mean(chosen), statistics

        (loss, statistics), gradient = jax.value_and_grad(loss_fn, has_aux=True)(params)
        # Adam's first steps, in a form that compiles in no time.
        params = jax.tree.map(lambda p, g: p - 1e-3 * jnp.sign(g), params, gradient)
        return params, {**frozen, **statistics}, loss

    state = running.variables["params"], frozen
    losses = []
    # The same dropout at every step makes the loss one function.
    while len(losses) < 10 and (len(losses) < 2 or losses[-1] >= 0.5 * losses[0]):
        *state, loss = step(*state, jax.random.key(0))
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]
    for name, part in frozen.items():
        unchanged = jax.tree.map(np.array_equal, part, state[1][name])
        assert all(jax.tree.leaves(unchanged)) is (name == "frozen")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["penalty", "greedy"])
def test_one_pass_of_each_attack(running, method):
    config = {
        "penalty": attacks.PenaltyConfig(max_passes=1, batch_size=4, target_asr=1.0),
        "greedy": attacks.GreedyConfig(
            max_passes=1,
            target_asr=1.0,
            radius=1.0,
            ddn=attacks.DDNConfig(num_steps=8, init_norm=3.0),
        ),
    }[method]
    labels = jnp.argmax(running.logits, axis=1).astype(jnp.int32)
    result = getattr(attacks, method)(
        *(running.spec.logits, running.variables, running.x, labels),
        key=jax.random.key(0),
        config=config,
    )
    assert int(result.num_passes) == 1
    value = np.asarray(result.perturbation.value)
    assert np.all(np.isfinite(value))
    assert np.any(value != 0)
    perturbed = attacks.apply_perturbation(result.perturbation, running.x)
    assert float(perturbed.min()) >= 0
    assert float(perturbed.max()) <= 1
