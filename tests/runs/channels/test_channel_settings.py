"""What --channel and --sound_seconds mean, and which sound lies in a clip."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uap_jax.audio import channels
from uap_jax.errors import UsageError
from uap_jax.runs.channels.settings import (
    channel_of,
    num_sound_samples,
    parse_channel,
    placed,
    sound_of,
)
from uap_jax.runs.channels.table import table_of
from uap_jax.runs.config import RunConfig
from uap_jax.runs.resolve import resolve

CONFIG = RunConfig(channel="moment")


def test_a_list_of_channels():
    parts = parse_channel("band=telephone, gain=3:-6,ambient=-40,moment")
    assert [tuple(part) for part in parts] == [
        ("moment", ()),
        ("band", (300.0, 3400.0)),
        ("gain", (-6.0, 3.0)),
        ("ambient", (-40.0,)),
    ]


def test_it_is_what_it_says():
    config = dataclasses.replace(CONFIG, channel="gain=-6,once,band=300:3400")
    sound = jnp.asarray(np.random.default_rng(0).standard_normal(500), jnp.float32)
    expected = channels.compose(
        channels.once(),
        channels.gain(-6),
        channels.band(300, 3400, sample_rate_hz=16_000),
    )
    key = jax.random.key(0)
    np.testing.assert_array_equal(
        channel_of(config)(key, sound, 800), expected(key, sound, 800)
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "moments",
        "band",
        "band=9",
        "gain=a",
        "gain=1:2:3",
        "moment,once",
        "gain=inf",
    ],
)
def test_a_mistyped_channel_is_named(text):
    with pytest.raises(UsageError, match="--channel: expected"):
        parse_channel(text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "greedy"}, "--channel: expected none with greedy: it adds up"),
        ({"channel": "band=9000:9500"}, "--channel: band: low_hz, high_hz"),
        ({"channel": None, "sound_seconds": 0.2}, "--sound_seconds: expected --chan"),
        ({"sound_seconds": -1.0}, "--sound_seconds: expected a positive"),
        ({"sound_seconds": float("nan")}, "--sound_seconds: expected a positive"),
    ],
)
def test_settings_that_cannot_be_are_named(changes, message):
    with pytest.raises(UsageError, match=message):
        resolve(dataclasses.replace(CONFIG, **changes))


def test_the_sound_has_its_seconds_and_is_laid_into_clips():
    config = resolve(dataclasses.replace(CONFIG, sound_seconds=0.25))
    assert num_sound_samples(config) == 4000
    assert sound_of(config, None)["num_sound_samples"] == 4000
    sound = np.arange(4000, dtype=np.float32)
    np.testing.assert_array_equal(placed(sound, config), np.tile(sound, 4))
    once = dataclasses.replace(config, channel="once")
    np.testing.assert_array_equal(placed(sound, once), np.pad(sound, (0, 12_000)))
    whole = np.arange(16_000)
    assert placed(whole, config) is whole
    assert sound_of(resolve(RunConfig()), None) == {}


def test_the_table_begins_as_the_sound_does():
    sound = jnp.ones(4000)
    for channel, share in (("moment", 1.0), ("once", 0.25), (None, 1.0)):
        config = dataclasses.replace(resolve(RunConfig()), channel=channel)
        first = next(iter(table_of(config).values()))
        assert np.mean(first(jax.random.key(0), sound, 16_000)) == share
