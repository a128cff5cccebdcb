"""What DDN and the greedy attack refuse, and how the settings are filled in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_networks import linear_logits, linear_problem
from uap_jax.attacks.passes import all_logits

from uap_jax import attacks
from uap_jax.attacks.ddn import search
from uap_jax.attacks.greedy import AGGREGATIONS, LABELS


def greedy(logits_fn=linear_logits, **changes):
    variables, x, labels = linear_problem()
    arguments = {"x": x, "labels": labels, "target": 1} | changes
    return attacks.greedy(
        logits_fn,
        variables,
        arguments.pop("x"),
        arguments.pop("labels"),
        key=jax.random.key(0),
        **arguments,
    )


def ddn(logits_fn=linear_logits, **changes):
    variables, x, labels = linear_problem()
    arguments = {"x": x, "labels": labels} | changes
    return attacks.ddn(
        logits_fn, variables, arguments.pop("x"), arguments.pop("labels"), **arguments
    )


def resolve(targeted=False, num_clips=100, **settings):
    return attacks.resolve_greedy_config(
        attacks.GreedyConfig(**settings), targeted=targeted, num_clips=num_clips
    )


@pytest.fixture
def nothing_compiles():
    before = search._cache_size(), all_logits._cache_size()
    yield
    assert (search._cache_size(), all_logits._cache_size()) == before


def test_defaults_are_the_papers():
    config = resolve()
    assert (config.norm, config.radius, config.max_passes) == ("linf", 0.2, 100)
    assert (config.target_asr, config.batch_size, config.shuffle) == (0.9, 1, False)
    assert (config.labels, config.aggregation) == ("clean", "sum")
    assert resolve(targeted=True).radius == 0.12
    assert config.ddn == attacks.DDNConfig()
    inner = config.ddn
    assert (inner.num_steps, inner.init_norm, inner.gamma) == (50, 0.2, 0.05)
    assert inner.quantization_levels is None
    again = attacks.resolve_greedy_config(config, targeted=True, num_clips=100)
    assert again == config
    assert (LABELS, AGGREGATIONS) == (("clean", "true"), ("sum", "mean"))


def test_set_numbers_win_over_the_scenario():
    assert resolve(radius=0.5).radius == resolve(targeted=True, radius=0.5).radius
    assert resolve(norm="l2", radius=3).radius == 3


def test_batches_are_never_larger_than_the_attack_set():
    config = resolve(num_clips=7, batch_size=64, micro_batch_size=64)
    assert (config.batch_size, config.micro_batch_size) == (7, 7)
    assert resolve(num_clips=7).micro_batch_size == 7
    assert resolve(num_clips=100).micro_batch_size == 25


@pytest.mark.usefixtures("nothing_compiles")
@pytest.mark.parametrize(
    "settings",
    [
        {"norm": "l1"},
        {"norm": 2},
        {"norm": "l2"},
        {"radius": 0.0},
        {"radius": -0.1},
        {"radius": float("inf")},
        {"radius": float("nan")},
        {"radius": "small"},
        {"max_passes": 0},
        {"max_passes": None},
        {"target_asr": 0.0},
        {"target_asr": 1.01},
        {"target_asr": float("nan")},
        {"shuffle": 2},
        {"shuffle": "yes"},
        {"shuffle": None},
        {"batch_size": 0},
        {"batch_size": 2.5},
        {"batch_size": True},
        {"aggregation": "max"},
        {"labels": "predicted"},
        {"micro_batch_size": 0},
        {"micro_batch_size": 1.5},
    ],
    ids=str,
)
def test_greedy_refuses_settings(settings):
    (name,) = settings
    name = "radius" if settings == {"norm": "l2"} else name
    with pytest.raises(ValueError, match=rf"^{name}: expected [^\n]*$"):
        greedy(config=attacks.GreedyConfig(**settings))


@pytest.mark.usefixtures("nothing_compiles")
@pytest.mark.parametrize("attack", [greedy, ddn])
@pytest.mark.parametrize(
    "settings",
    [
        {"num_steps": 0},
        {"num_steps": 1.5},
        {"num_steps": None},
        {"init_norm": 0.0},
        {"init_norm": -1.0},
        {"init_norm": float("inf")},
        {"init_norm": float("nan")},
        {"init_norm": None},
        {"gamma": 0.0},
        {"gamma": 1.0},
        {"gamma": -0.05},
        {"gamma": float("nan")},
        {"gamma": "slow"},
        {"quantization_levels": 1},
        {"quantization_levels": 256.0},
        {"micro_batch_size": 0},
        {"micro_batch_size": 2.5},
    ],
    ids=str,
)
def test_refuses_settings_of_ddn(attack, settings):
    (name,) = settings
    config = attacks.DDNConfig(**settings)
    if attack is greedy:
        config = attacks.GreedyConfig(ddn=config)
    with pytest.raises(ValueError, match=rf"^{name}: expected [^\n]*$"):
        attack(config=config)


@pytest.mark.usefixtures("nothing_compiles")
@pytest.mark.parametrize("attack", [greedy, ddn])
def test_refuses_inputs(attack):
    _, x, labels = linear_problem()
    x, labels = np.asarray(x), np.asarray(labels)

    def changed(array, value):
        array = array.copy()
        array.flat[array.size // 2] = value
        return array

    cases = [
        ("x", {"x": np.float64(x)}),
        ("x", {"x": jnp.asarray(x, jnp.bfloat16)}),
        ("x", {"x": x[0]}),
        ("x", {"x": x[None]}),
        ("x", {"x": x[:0], "labels": labels[:0]}),
        ("x", {"x": x[:, :0]}),
        ("x", {"x": changed(x, 1.001)}),
        ("x", {"x": changed(x, -0.001)}),
        ("x", {"x": changed(x, np.nan)}),
        ("x", {"x": jnp.asarray(changed(x, np.nan))}),
        ("x", {"x": changed(x, np.inf)}),
        ("labels", {"labels": changed(labels, 4)}),
        ("labels", {"labels": changed(labels, -1)}),
        ("labels", {"labels": labels[:-1]}),
        ("labels", {"labels": labels[:, None]}),
        ("labels", {"labels": np.float32(labels)}),
        ("labels", {"labels": np.int64(labels)}),
    ]
    if attack is greedy:
        cases += [("target", {"target": 4}), ("target", {"target": -1})]
    for name, changes in cases:
        with pytest.raises(ValueError, match=rf"^{name}: expected [^\n]*$"):
            attack(**changes)


@pytest.mark.usefixtures("nothing_compiles")
@pytest.mark.parametrize("attack", [greedy, ddn])
def test_refuses_functions_that_give_no_logits(attack):
    for logits_fn in (
        lambda variables, x: x[:, :1],
        lambda variables, x: jnp.sum(x, axis=1),
        lambda variables, x: x[:, None],
    ):
        with pytest.raises(ValueError, match=r"^logits_fn: expected"):
            attack(logits_fn)
