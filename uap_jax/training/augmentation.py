"""Random changes to training clips, so that ordinary variation does not fool a model.

Every attack on a victim that plain noise fools would look strong; noise of many levels
is therefore part of every recipe.
"""

import dataclasses

import jax
import jax.numpy as jnp

from uap_jax.attacks import checks
from uap_jax.audio.box import to_box


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Settings of `augment`; every change applies to a random part of the clips.

    Attributes:
        max_shift_s: Largest shift in time, either way; the end that leaves is cut off.
        max_speed_change: Largest relative change of speed, and pitch with it.
        max_gain_db: Largest change of level, either way; clipped at full scale.
        background_share: Share of clips that get background noise of the corpus.
        max_background_volume: Its largest gain.
        noise_share: Share of clips that get stationary noise, added in the box.
        min_snr_db: Lowest mean-free signal-to-noise ratio of that noise.
        max_snr_db: Highest.
    """

    max_shift_s: float = 0.1
    max_speed_change: float = 0.12
    max_gain_db: float = 10.0
    background_share: float = 0.5
    max_background_volume: float = 0.15
    noise_share: float = 0.4
    min_snr_db: float = 10.0
    max_snr_db: float = 40.0

    def __post_init__(self) -> None:
        for name, at_least, at_most in (
            ("background_share", 0, 1),
            ("noise_share", 0, 1),
            ("max_speed_change", 0, 1),
            ("max_shift_s", 0, 60),
            ("max_gain_db", 0, 200),
            ("max_background_volume", 0, 1000),
            ("min_snr_db", -200, 200),
            ("max_snr_db", -200, 200),
        ):
            value = getattr(self, name)
            checks.check_number(name, value, at_least=at_least, at_most=at_most)
        if self.min_snr_db > self.max_snr_db:
            raise ValueError(
                f"min_snr_db: expected at most max_snr_db {self.max_snr_db}, "
                f"got {self.min_snr_db}"
            )


def augment(
    waveform: jax.Array,
    background: jax.Array,
    key: jax.Array,
    *,
    strength: jax.Array | float = 1.0,
    scaling: str,
    sample_rate_hz: int,
    config: Augmentation,
) -> jax.Array:
    """Changes clips at random and scales them to the box.

    Args:
        waveform: `[B, N]` in [-1, 1].
        background: `[B, N]` background noise per clip, in [-1, 1].
        key: Random key; consumed.
        strength: `[]` in [0, 1]; scales the shares of clips with noise and the changes
            of speed and level.
        scaling: Scaling of the waveform to the box.
        sample_rate_hz: Samples per second.
        config: Largest changes and shares.

    Returns:
        `[B, N]` in [0, 1].
    """
    num_clips, num_samples = waveform.shape
    keys = iter(jax.random.split(key, 9))

    def uniform(low: float, high: float) -> jax.Array:
        return jax.random.uniform(next(keys), (num_clips, 1), minval=low, maxval=high)

    speed = 1 + strength * uniform(-config.max_speed_change, config.max_speed_change)
    max_shift = config.max_shift_s * sample_rate_hz
    waveform = stretch(waveform, speed=speed, shift=uniform(-max_shift, max_shift))
    volume = uniform(0.0, config.max_background_volume)
    has_background = uniform(0.0, 1.0) < strength * config.background_share
    waveform = waveform + jnp.where(has_background, volume, 0.0) * background
    gain_db = strength * uniform(-config.max_gain_db, config.max_gain_db)
    waveform = jnp.clip(waveform * 10 ** (gain_db / 20), -1.0, 1.0)
    x, _ = to_box(waveform, scaling=scaling)
    snr_db = uniform(config.min_snr_db, config.max_snr_db)
    has_noise = uniform(0.0, 1.0) < strength * config.noise_share
    noise = coloured_noise(next(keys), (num_clips, num_samples))
    level = jnp.where(has_noise, jnp.std(x, axis=1, keepdims=True), 0.0)
    level = level * 10 ** (-snr_db / 20)
    return jnp.clip(x + level * noise, 0.0, 1.0)


def stretch(waveform: jax.Array, *, speed: jax.Array, shift: jax.Array) -> jax.Array:
    """Plays clips `[B, N]` faster and later, with silence from outside the clip.

    y(t) = a((t - centre) speed + centre - shift), by linear interpolation; `speed` and
    `shift` (in samples) are `[B, 1]`.
    """
    num_samples = waveform.shape[1]
    centre = 0.5 * (num_samples - 1)
    at = jnp.arange(num_samples, dtype=jnp.float32)[None]
    at = (at - centre) * speed + centre - shift
    inside = (at >= 0) & (at <= num_samples - 1)
    low = jnp.clip(jnp.floor(at), 0, num_samples - 2)
    share = at - low
    index = low.astype(jnp.int32)
    before = jnp.take_along_axis(waveform, index, axis=1)
    after = jnp.take_along_axis(waveform, index + 1, axis=1)
    return jnp.where(inside, before + share * (after - before), 0.0)


def coloured_noise(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Gaussian noise of RMS 1, white for half of the clips, tilted for the others.

    The filter is y_t = e_t + c e_{t-1}, with c random in [-0.95, 0.95].
    """
    noise_key, tilt_key, white_key = jax.random.split(key, 3)
    white = jax.random.normal(noise_key, (shape[0], shape[1] + 1))
    tilt = jax.random.uniform(tilt_key, (shape[0], 1), minval=-0.95, maxval=0.95)
    is_white = jax.random.bernoulli(white_key, 0.5, (shape[0], 1))
    tilt = jnp.where(is_white, 0.0, tilt)
    noise = white[:, 1:] + tilt * white[:, :-1]
    return noise / jnp.sqrt(1 + jnp.square(tilt))
