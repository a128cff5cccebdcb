"""What the penalty method refuses, and how it fills in its settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_networks import linear_logits, linear_problem
from uap_jax.attacks.penalty_steps import OPTIMIZERS

from uap_jax import attacks


def penalty(logits_fn=linear_logits, **changes):
    variables, x, labels = linear_problem()
    arguments = {"x": x, "labels": labels, "target": 1} | changes
    return attacks.penalty(
        logits_fn,
        variables,
        arguments.pop("x"),
        arguments.pop("labels"),
        key=jax.random.key(0),
        **arguments,
    )


def test_table_of_optimizers():
    assert list(OPTIMIZERS) == ["adam", "adagrad", "sgd", "nesterov", "rmsprop"]


@pytest.mark.parametrize(
    ("targeted", "expected"),
    [(True, (0.0035, 0.15, 10.0)), (False, (0.006, 0.2, 40.0))],
)
def test_defaults_of_the_scenarios(targeted, expected):
    config = attacks.resolve_penalty_config(
        attacks.PenaltyConfig(), targeted=targeted, num_clips=1000
    )
    found = (config.learning_rate, config.penalty_coefficient, config.confidence)
    assert found == expected
    assert (config.batch_size, config.max_passes, config.target_asr) == (100, 100, 0.9)
    assert config.micro_batch_size == 25
    again = attacks.resolve_penalty_config(config, targeted=targeted, num_clips=1000)
    assert again == config


def test_batch_is_never_larger_than_the_attack_set():
    config = attacks.resolve_penalty_config(
        attacks.PenaltyConfig(micro_batch_size=64), targeted=True, num_clips=7
    )
    assert (config.batch_size, config.micro_batch_size) == (7, 7)


def test_set_numbers_win_over_the_scenario():
    config = attacks.PenaltyConfig(learning_rate=1.0, confidence=0.0)
    config = attacks.resolve_penalty_config(config, targeted=True, num_clips=7)
    assert (config.learning_rate, config.confidence) == (1.0, 0.0)
    assert config.penalty_coefficient == 0.15


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 0},
        {"batch_size": 2.5},
        {"micro_batch_size": 0},
        {"micro_batch_size": 1.5},
        {"max_passes": 0},
        {"max_passes": None},
        {"min_passes": 0},
        {"min_passes": 1.5},
        {"min_passes": 101},
        {"target_asr": 0.0},
        {"target_asr": 1.01},
        {"target_asr": float("nan")},
        {"learning_rate": 0.0},
        {"learning_rate": -1.0},
        {"learning_rate": "fast"},
        {"penalty_coefficient": -0.1},
        {"confidence": -1.0},
        {"confidence": float("nan")},
        {"l2_radius": 0.0},
        {"hinge_reduction": "mean"},
        {"optimizer": "adamant"},
        {"optimizer": "apply_updates"},
    ],
    ids=str,
)
def test_refuses_settings(settings):
    (name,) = settings
    with pytest.raises(ValueError, match=rf"^{name}: expected [^\n]*$"):
        penalty(config=attacks.PenaltyConfig(**settings))


def test_refuses_inputs():
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
        ("target", {"target": 4}),
        ("target", {"target": -1}),
    ]
    for name, changes in cases:
        with pytest.raises(ValueError, match=rf"^{name}: expected [^\n]*$"):
            penalty(**changes)


def test_refuses_functions_that_give_no_logits():
    for logits_fn in (
        lambda variables, x: x[:, :1],
        lambda variables, x: jnp.sum(x, axis=1),
        lambda variables, x: x[:, None],
    ):
        with pytest.raises(ValueError, match=r"^logits_fn: expected"):
            penalty(logits_fn)
