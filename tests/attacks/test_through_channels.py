"""Attacks whose sound passes a channel."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_networks import linear_logits, linear_problem

from uap_jax import attacks
from uap_jax.attacks import batches, loop
from uap_jax.attacks.equations import perturb
from uap_jax.audio import channels
from uap_jax.audio.box import to_tanh_space

NUM_SAMPLES = 64
BANK = np.random.default_rng(0).standard_normal((4, 9)) / 3
ROOMS = channels.compose(channels.moment(), channels.rooms(BANK))
CONFIGS = {
    "penalty": attacks.PenaltyConfig(
        batch_size=6,
        micro_batch_size=4,
        learning_rate=0.02,
        penalty_coefficient=20.0,
        max_passes=3,
        target_asr=1.0,
    ),
    "decoupled": attacks.DecoupledConfig(
        batch_size=6,
        micro_batch_size=4,
        max_passes=3,
        asr_levels=(0.5,),
        level_passes=1,
        max_shift=0,
    ),
}
any_method = pytest.mark.parametrize("name", CONFIGS)
one_quickly = pytest.mark.parametrize(
    "name", ["decoupled", pytest.param("penalty", marks=pytest.mark.slow)]
)


def problem_of(num_clips=23):
    variables, x, labels = linear_problem(num_clips, NUM_SAMPLES)
    return linear_logits, variables, x, labels


def attack(name, channel=ROOMS, *, logits_fn=None, max_steps=None, **sound):
    """The result of an attack, advanced in calls of at most `max_steps`."""
    default_fn, *data = problem_of()
    logits_fn = logits_fn or default_fn
    problem, state = attacks.begin(
        logits_fn,
        *data,
        key=jax.random.key(3),
        target=1,
        config=CONFIGS[name],
        channel=channel,
        **sound,
    )
    while attacks.is_running(state):
        state = attacks.advance(logits_fn, data[0], problem, state, max_steps=max_steps)
    return attacks.result(state)


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(left, right)


def test_a_channel_that_changes_nothing_changes_no_bit():
    same = channels.compose(channels.looped(), channels.rooms(np.eye(1, 9)))
    x = to_tanh_space(problem_of()[2])
    v = jnp.asarray(np.random.default_rng(0).standard_normal(NUM_SAMPLES), jnp.float32)
    keys = jax.random.split(jax.random.key(0), len(x))
    for space in ("tanh", "signal"):
        heard = perturb(x, v, space=space, channel=same, keys=keys)
        np.testing.assert_array_equal(heard, perturb(x, v, space=space))


def test_gradients_are_those_of_equation_7_through_it():
    x, u = to_tanh_space(problem_of()[2][:3]), jnp.linspace(-1.0, 1.0, 3 * NUM_SAMPLES)
    u = u.reshape(3, NUM_SAMPLES)
    v = jnp.asarray(np.random.default_rng(0).standard_normal(20), jnp.float32)
    keys = jax.random.split(jax.random.key(0), 3)

    @jax.jit
    def gradient_and_matrix(v):
        def projected(v):
            return jnp.vdot(u, perturb(x, v, space="tanh", channel=ROOMS, keys=keys))

        def hear(sound):
            return channels.received(ROOMS, keys, sound, NUM_SAMPLES)

        return jax.grad(projected)(v), jax.vmap(hear)(jnp.eye(20))

    gradient, matrix = map(np.float64, gradient_and_matrix(v))
    heard = np.tanh(np.float64(x) + np.tensordot(np.float64(v), matrix, 1))
    expected = np.sum(matrix * np.float64(u) * (1 - heard**2) / 2, axis=(1, 2))
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_penalty_through_it_is_the_same_up_to_rounding():
    # Decoupled has another start and other step lengths with a channel.
    same = channels.compose(channels.looped(), channels.rooms(np.eye(1, 9)))
    value = attack("penalty", same).perturbation.value
    expected = attack("penalty", None).perturbation.value
    np.testing.assert_allclose(value, expected, rtol=0.02, atol=1e-3)


@one_quickly
@pytest.mark.parametrize("period", [20, pytest.param(150, marks=pytest.mark.slow)])
def test_a_sound_of_any_length(name, period):
    result = attack(name, num_sound_samples=period)
    assert result.perturbation.value.shape == (period,)
    assert np.any(result.perturbation.value)
    if result.front is not None:
        assert result.front.values.shape == (2, period)


@one_quickly
def test_resuming_changes_no_bit(name):
    short = {"num_sound_samples": 20}
    assert_same(attack(name, max_steps=1, **short), attack(name, **short))


@pytest.mark.slow
@any_method
def test_side_by_side_and_over_devices(name):
    alone = attack(name)
    logits_fn, *data = problem_of()
    both = attacks.together(
        logits_fn,
        *data,
        keys=[jax.random.key(3), jax.random.key(4)],
        targets=[1, 2],
        configs=CONFIGS[name],
        width=2,
        channel=ROOMS,
    )
    spread = attack(name, logits_fn=attacks.over_devices(logits_fn))
    for other in (both[0], spread):
        np.testing.assert_allclose(
            other.perturbation.value, alone.perturbation.value, rtol=0.02, atol=1e-3
        )
    assert np.any(both[1].perturbation.value != both[0].perturbation.value)


def test_new_numbers_recompile_nothing():
    attack("penalty", max_steps=2)
    before = loop._advance._cache_size()
    other = channels.compose(channels.moment(), channels.rooms(BANK[::-1] + 1))
    attack("penalty", other, max_steps=3)
    assert loop._advance._cache_size() == before


@one_quickly
def test_success_is_counted_through_the_counting_channel(name):
    logits_fn, variables, x, _ = problem_of()
    # A room in which nothing is heard.
    nothing = channels.compose(channels.moment(), channels.rooms(0 * BANK))
    result = attack(name, counting_channel=nothing, num_sound_samples=20)
    said = np.argmax(np.asarray(logits_fn(variables, x)), axis=1)
    asr = result.history["asr"][: int(result.num_passes)]
    np.testing.assert_allclose(asr, np.mean(said == 1), rtol=1e-6)


def test_steps_and_counting_draw_apart_and_every_clip_for_itself():
    key, clips = jax.random.key(0), jnp.arange(50, dtype=jnp.int32)
    folded = (0, 1, loop._COUNTING)
    sources = [jax.random.fold_in(key, jnp.uint32(i)) for i in folded]
    drawn = [
        np.asarray(jax.random.key_data(batches.passing(ROOMS, k, clips)["keys"]))
        for k in sources
    ]
    assert len(np.unique(np.concatenate(drawn), axis=0)) == 150
    again = batches.passing(ROOMS, sources[0], clips[::-1])["keys"]
    np.testing.assert_array_equal(jax.random.key_data(again)[::-1], drawn[0])


def cosine_logits(variables, x):
    """Class 1 where the clip has the phase of one cosine, and what its mean adds."""
    n = jnp.arange(x.shape[1], dtype=jnp.float32)
    wave = jnp.cos(2 * jnp.pi * 3 * n / x.shape[1])
    score = (x - 0.5) @ (wave + variables["mean_weight"])
    return jnp.stack([jnp.zeros_like(score), score - 0.5], axis=1)


@pytest.mark.parametrize("mean_weight", [0.0, 0.3])
def test_a_linear_victim_is_moved_at_any_moment_by_the_mean_alone(mean_weight):
    # The mean of w.S(tau) v over all tau is (sum w)(sum v) / N; of a cosine only, the
    # sound adds to as many offsets as it takes from.
    variables = {"mean_weight": jnp.float32(mean_weight)}
    rng = np.random.default_rng(0)
    x = jnp.asarray(0.5 + 0.01 * rng.standard_normal((200, NUM_SAMPLES)), jnp.float32)
    result = attacks.decoupled(
        cosine_logits,
        variables,
        x,
        jnp.zeros(200, jnp.int32),
        key=jax.random.key(1),
        target=1,
        config=attacks.DecoupledConfig(max_passes=12),
        channel=channels.moment(),
    )
    value = np.asarray(result.perturbation.value)
    if not mean_weight:
        assert not result.converged
        # Half of the clips, and three standard deviations of a binomial.
        assert np.nanmax(result.history["asr"]) < 0.5 + 3 * 0.5 / np.sqrt(200)
    else:
        assert result.converged and result.train_asr >= 0.9
        assert np.mean(value) ** 2 > 0.9 * np.mean(value**2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": attacks.GreedyConfig()}, "channel: .* greedy: it adds up"),
        ({"channel": None, "num_sound_samples": 20}, "num_sound_samples: expected 64"),
        ({"channel": None, "counting_channel": ROOMS}, "counting_channel: expected"),
        ({"num_sound_samples": 0}, "num_sound_samples: expected"),
        ({"channel": lambda key, sound, n: sound[:5]}, r"channel: .* \(5,\)"),
        (
            {"config": attacks.PenaltyConfig(hinge_reduction="released")},
            "hinge_reduction: expected sum",
        ),
    ],
)
def test_mistakes_are_named(change, message):
    arguments = {"config": CONFIGS["penalty"], "channel": ROOMS} | change
    logits_fn, variables, *clips = problem_of()
    with pytest.raises(ValueError, match=message):
        problem, state = attacks.begin(
            logits_fn, variables, *clips, key=jax.random.key(0), target=1, **arguments
        )
        attacks.advance(logits_fn, variables, problem, state)


def test_a_custom_method_takes_a_channel_only_where_it_says_so():
    method = CONFIGS["penalty"].method._replace(no_channel="it has no steps")
    config = type(
        "Config", (attacks.PenaltyConfig,), {"method": property(lambda self: method)}
    )
    logits_fn, *data = problem_of()
    config = dataclasses.dataclass(frozen=True)(config)()
    with pytest.raises(ValueError, match="it has no steps"):
        attacks.begin(
            logits_fn,
            *data,
            key=jax.random.key(0),
            target=1,
            config=config,
            channel=ROOMS,
        )
