"""Where the decoupled method begins: the clip that fools the others best."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_networks import constant_logits, linear_logits, linear_problem, predictions

from uap_jax import attacks
from uap_jax.attacks.decoupled_start import LOUDER, MOST_CANDIDATES, MOST_PROBES

INIT_NORM, TEMPERATURE = 0.7, 0.2


def first_value(logits_fn, variables, x, *, target, **settings):
    labels = jnp.zeros(len(x), jnp.int32)
    _, state = attacks.decoupled_init(
        logits_fn,
        variables,
        x,
        labels,
        key=jax.random.key(0),
        target=target,
        config=attacks.DecoupledConfig(**settings),
    )
    return np.asarray(state.perturbation.value)


def best_clip(variables, x, *, target, space):
    """The first v in float64, by trying the candidates one after the other."""
    x = np.asarray(x, np.float64)
    templates = np.asarray(variables["templates"], np.float64)
    clean = np.argmax((x - 0.5) @ templates.T, axis=1)
    probes = [i * len(x) // MOST_PROBES for i in range(MOST_PROBES)]
    count = min(MOST_CANDIDATES, 4 * len(x) // MOST_PROBES)
    usable = np.arange(len(x)) if target is None else np.flatnonzero(clean == target)
    candidates = [usable[i * len(usable) // count] for i in range(count)]
    in_space = np.arctanh((2 * x - 1) * (1 - 1e-7)) if space == "tanh" else x
    losses, values = [], []
    for candidate in candidates:
        sound = 2 * x[candidate] - 1 if space == "tanh" else x[candidate]
        sound = sound - np.mean(sound)
        value = INIT_NORM * sound / np.linalg.norm(sound)
        w = in_space[probes] + LOUDER * value
        w = (np.tanh(w) + 1) / 2 if space == "tanh" else np.clip(w, 0, 1)
        logits = (w - 0.5) @ templates.T
        classes = clean[probes] if target is None else np.full(len(probes), target)
        own = logits[np.arange(len(probes)), classes]
        rivals = logits.copy()
        rivals[np.arange(len(probes)), classes] = -np.inf
        margin = np.max(rivals, axis=1) - own
        margin = (-margin if target is None else margin) / TEMPERATURE
        losses.append(np.mean(1 / (1 + np.exp(-margin))))
        values.append(value)
    return values[int(np.argmin(losses))]


@pytest.mark.parametrize("space", ["tanh", "signal"])
@pytest.mark.parametrize("target", [None, 0, 2])
def test_the_best_clip_is_found(target, space):
    variables, x, _ = linear_problem(150)
    assert len(x) > MOST_PROBES
    found = first_value(
        linear_logits,
        variables,
        x,
        target=target,
        space=space,
        init_norm=INIT_NORM,
        temperature=TEMPERATURE,
    )
    expected = best_clip(variables, x, target=target, space=space)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert np.linalg.norm(found) == pytest.approx(INIT_NORM, rel=1e-5)


@pytest.mark.parametrize("target", [None, 1])
def test_from_silence(target):
    variables, x, _ = linear_problem()
    found = first_value(linear_logits, variables, x, target=target, start="silence")
    np.testing.assert_array_equal(found, np.zeros(x.shape[1]))


def test_no_clip_is_taken_for_the_target():
    variables, x, _ = linear_problem()
    clean = predictions(linear_logits, variables, x)
    others = x[np.asarray(clean) != 1]
    found = first_value(linear_logits, variables, others, target=1)
    np.testing.assert_array_equal(found, np.zeros(x.shape[1]))


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_clips_without_sound(value):
    x = jnp.full((5, 40), value, jnp.float32)
    found = first_value(constant_logits, {"bias": jnp.ones(3)}, x, target=0)
    np.testing.assert_array_equal(found, np.zeros(40))


def test_a_lone_clip():
    variables, x, _ = linear_problem()
    found = first_value(linear_logits, variables, x[:1], target=None, space="signal")
    sound = np.asarray(x[0] - jnp.mean(x[0]))
    cosine = found @ sound / (np.linalg.norm(found) * np.linalg.norm(sound))
    assert cosine == pytest.approx(1.0, abs=1e-5)


def test_targets_side_by_side_begin_as_alone():
    variables, x, labels = linear_problem()
    configs = [attacks.DecoupledConfig(init_norm=norm) for norm in (0.4, 0.2)]
    _, states, _ = attacks.together_init(
        "decoupled",
        linear_logits,
        variables,
        x,
        labels,
        targets=[0, 1],
        keys=[jax.random.key(0)] * 2,
        configs=configs,
    )
    for target, state in enumerate(states):
        alone = first_value(
            linear_logits,
            variables,
            x,
            target=target,
            init_norm=configs[target].init_norm,
        )
        np.testing.assert_array_equal(state.perturbation.value, alone)
    assert not np.array_equal(states[0].perturbation.value, alone)
