"""Channels against float64 NumPy, their adjoints, and what must not change a bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from uap_jax.audio import channels

N, RATE_HZ = 48, 16_000
PERIODS = (N, 20, 75)
rng = np.random.default_rng(0)
BANK = rng.standard_normal((5, 17)).astype(np.float32)
CHANNELS = {
    "moment": channels.moment(),
    "looped": channels.looped(7),
    "once": channels.once(-5, 30),
    "rooms": channels.rooms(BANK, direct=3),
    "band": channels.band(300, 3400, sample_rate_hz=RATE_HZ),
    "gain": channels.gain(-6, 3),
    "ambient": channels.ambient(-20),
    "moment in rooms": channels.compose(
        channels.moment(), channels.rooms(BANK, direct=3), channels.gain(-6)
    ),
    "filtered twice": channels.compose(
        channels.once(2), channels.rooms(BANK), channels.rooms(BANK, direct=16)
    ),
}
SAME_TWICE = channels.rooms(np.eye(1, 9, 4), direct=4), channels.rooms(np.eye(1, 99))
any_channel = pytest.mark.parametrize("name", CHANNELS)
any_period = pytest.mark.parametrize("period", PERIODS)


def sound_of(period, seed=1):
    return np.random.default_rng(seed).standard_normal(period).astype(np.float32)


def timeline(sound, start, *, repeats, extent=600):
    """A sound around time 0, which is at `extent`: `[2 extent + N]` float64."""
    n = np.arange(-extent, N + extent) - start
    inside = (n >= 0) & (n < len(sound))
    values = sound.astype(np.float64)[n % len(sound)]
    return values if repeats else np.where(inside, values, 0)


@any_period
def test_a_loop_begins_so_many_samples_before_the_clip(period):
    sound = sound_of(period)
    for shift in (0, 1, period - 1, period + 3, -4):
        heard = channels.looped(shift)(jax.random.key(0), jnp.asarray(sound), N)
        np.testing.assert_array_equal(heard, sound[(np.arange(N) + shift) % period])


def test_any_moment_is_as_likely_as_any_other():
    sound = jnp.arange(4, dtype=jnp.float32)
    keys = jax.random.split(jax.random.key(0), 4000)
    heard = np.asarray(channels.received(channels.moment(), keys, sound, N), int)
    np.testing.assert_array_equal(heard, (heard[:, :1] + np.arange(N)) % 4)
    counts = np.bincount(heard[:, 0], minlength=4)
    # Five standard deviations of a binomial.
    assert np.all(np.abs(counts - 1000) < 5 * np.sqrt(4000 * 0.25 * 0.75))


@any_period
@pytest.mark.parametrize("start", [0, 5, -3, N, -200, 200])
def test_once_has_silence_around_it(period, start):
    sound = sound_of(period)
    heard = channels.once(start)(jax.random.key(0), jnp.asarray(sound), N)
    expected = timeline(sound, start, repeats=False)[600 : 600 + N]
    np.testing.assert_array_equal(heard, expected.astype(np.float32))


def test_once_is_drawn_from_all_its_starts():
    sound = jnp.ones(1)
    keys = jax.random.split(jax.random.key(0), 500)
    heard = channels.received(channels.once(3, 6), keys, sound, N)
    assert set(np.argmax(np.asarray(heard), axis=1)) == {3, 4, 5, 6}


TELEPHONE = scipy.signal.firwin(513, (300, 3400), pass_zero=False, fs=RATE_HZ)
FILTERS = {
    "causal": [(BANK[0], 0)],
    "from the future": [(BANK[0], 16)],
    "of all sorts": [(BANK[0], 3), (TELEPHONE, 256)],
}


@pytest.mark.parametrize("repeats", [True, False])
@pytest.mark.parametrize("name", FILTERS)
def test_what_filters_rings_with_what_was_before_the_clip(name, repeats):
    v, u, key = sound_of(20), sound_of(N, 3), jax.random.key(3)
    parts = [channels.looped(6) if repeats else channels.once(-6)]
    for taps, direct in FILTERS[name]:
        is_room = len(taps) == BANK.shape[1]
        parts.append(
            channels.rooms(taps[None], direct=direct)
            if is_room
            else channels.band(300, 3400, sample_rate_hz=RATE_HZ)
        )
    channel = channels.compose(*parts, channels.gain(-6), channels.ambient(-20))
    noise = channel(key, jnp.zeros(20), N)
    heard, pull_back = jax.vjp(lambda sound: channel(key, sound, N), jnp.asarray(v))
    (back,) = pull_back(jnp.asarray(u))

    def reference(sound):
        signal = timeline(sound, -6, repeats=repeats)
        for taps, direct in FILTERS[name]:
            whole = np.convolve(signal, taps.astype(np.float64))
            signal = whole[direct : direct + len(signal)]
        return 10 ** (-6 / 20) * signal[600 : 600 + N]

    np.testing.assert_allclose(heard - noise, reference(v), rtol=1e-5, atol=1e-5)
    ready = channels.prepared(channel, 20)(key, jnp.asarray(v), N)
    np.testing.assert_allclose(ready, heard, rtol=1e-5, atol=1e-5)
    matrix = np.stack([reference(unit) for unit in np.eye(20)])
    np.testing.assert_allclose(back, matrix @ u, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("place", [channels.looped(6), channels.once(-6)])
def test_filters_follow_each_other_before_and_after_noise(place):
    first, second = BANK[:1], BANK[1:2]
    silent = channels.compose(
        place,
        channels.rooms(first, direct=3),
        channels.gain(6),
        channels.rooms(second, direct=5),
        channels.ambient(-300),
        channels.rooms(first[:, ::-1], direct=2),
    )
    sound = sound_of(20)
    heard = silent(jax.random.key(0), jnp.asarray(sound), N)
    both = np.convolve(first[0].astype(np.float64), second[0])
    response = 10 ** (6 / 20) * np.convolve(both, first[0, ::-1])
    before = timeline(sound, -6, repeats=bool(place.repeats))
    expected = np.convolve(before, response)[610 : 610 + N]
    np.testing.assert_allclose(heard, expected, rtol=1e-4, atol=1e-4)


def test_each_clip_has_a_room_of_its_own():
    impulse = jnp.zeros(N).at[0].set(1.0)
    keys = jax.random.split(jax.random.key(0), 200)
    heard = channels.received(channels.rooms(BANK), keys, impulse, N)
    errors = np.abs(np.asarray(heard)[:, None, :17] - BANK[None]).max(axis=2)
    assert np.all(errors.min(axis=1) < 1e-5)
    assert len(set(errors.argmin(axis=1))) == len(BANK)


def test_a_band_passes_its_frequencies_without_delay_and_stops_others():
    at = np.arange(4000)
    inside = np.sin(2 * np.pi * 1000 * at / RATE_HZ)
    outside = np.sin(2 * np.pi * 100 * at / RATE_HZ) + np.sin(
        2 * np.pi * 6000 * at / RATE_HZ
    )
    low, high = channels.BANDS["telephone"]
    filtered = channels.compose(
        channels.looped(), channels.band(low, high, sample_rate_hz=RATE_HZ)
    )
    sound = jnp.asarray(inside + outside, jnp.float32)
    heard = filtered(jax.random.key(0), sound, len(at))
    np.testing.assert_allclose(heard, inside, atol=5e-3)


def test_a_gain_is_in_decibels_and_in_its_range():
    keys = jax.random.split(jax.random.key(0), 400)
    heard = channels.received(channels.gain(-6, 3), keys, jnp.ones(1), 1)
    gains_db = 20 * np.log10(np.asarray(heard))
    assert -6 <= gains_db.min() < -5.7 and 2.7 < gains_db.max() <= 3


def test_ambient_noise_has_its_level():
    noisy = channels.ambient(-20.0)
    heard = noisy(jax.random.key(0), jnp.zeros(20_000), 20_000)
    assert 20 * np.log10(np.std(heard)) == pytest.approx(-20, abs=0.1)


@any_channel
def test_gradients_are_the_adjoint(name):
    channel, key = CHANNELS[name], jax.random.key(3)

    @jax.jit
    def heard_and_back(v, u):
        heard, pull_back = jax.vjp(lambda s: channel(key, s, N), v)
        # The whole matrix, from unit sounds; of noise, apart from it.
        of_units = jax.vmap(lambda s: channel(key, s, N))(jnp.eye(len(v)))
        return heard, pull_back(u)[0], channel(key, jnp.zeros_like(v), N), of_units

    v, u = sound_of(20, 2), sound_of(N, 3)
    heard, back, noise, of_units = map(np.float64, heard_and_back(v, u))
    assert np.dot(heard - noise, u) == pytest.approx(np.dot(v, back), rel=1e-4)
    np.testing.assert_allclose(back, (of_units - noise) @ u, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "channel",
    [
        channels.once(),
        channels.looped(),
        channels.rooms(np.eye(1, 9)),
        channels.rooms(np.eye(1, 9, 4), direct=4),
        channels.band(0, np.inf, sample_rate_hz=RATE_HZ),
        channels.gain(0),
        channels.compose(channels.looped(), channels.rooms(np.eye(1, 9, 4), direct=4)),
        channels.prepared(channels.compose(channels.looped(), *SAME_TWICE), N),
        channels.compose(),
    ],
)
def test_what_changes_nothing_changes_no_bit(channel):
    sound = jnp.asarray(sound_of(N))
    np.testing.assert_array_equal(channel(jax.random.key(0), sound, N), sound)


@pytest.mark.parametrize("name", ["moment in rooms", "gain"])
def test_the_same_key_hears_the_same(name):
    keys = jax.random.split(jax.random.key(1), 3)
    sound = jnp.asarray(sound_of(20))
    heard = channels.received(CHANNELS[name], keys, sound, N)
    of_each = channels.received(CHANNELS[name], keys, jnp.stack([sound] * 3), N)
    np.testing.assert_allclose(heard, of_each, rtol=1e-5, atol=1e-5)
    alone = CHANNELS[name](keys[1], sound, N)
    np.testing.assert_allclose(heard[1], alone, rtol=1e-5, atol=1e-5)


def test_new_numbers_recompile_nothing():
    traces = []

    @jax.jit
    def hear(channel, key, sound):
        traces.append(1)
        return channel(key, sound, N)

    for seed in range(3):
        bank = np.random.default_rng(seed).standard_normal((5, 17))
        channel = channels.compose(
            channels.looped(seed), channels.rooms(bank), channels.gain(seed)
        )
        hear(channel, jax.random.key(seed), jnp.ones(20))
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: channels.rooms(np.ones(4)), "responses: expected"),
        (lambda: channels.rooms(np.ones((2, 4)), direct=4), "responses: expected"),
        (lambda: channels.band(400, 300, sample_rate_hz=RATE_HZ), "low_hz, high_hz"),
        (lambda: channels.band(9e3, 1e4, sample_rate_hz=RATE_HZ), "low_hz, high_hz"),
        (
            lambda: channels.compose(channels.gain(0), channels.moment()),
            "channels: expected the one that places",
        ),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
