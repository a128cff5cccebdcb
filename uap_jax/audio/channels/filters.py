"""Filters as spectra: circular convolution, which a repeated sound needs anyway."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import scipy.fft

# Most that the spectra of one bank may take.
MOST_BYTES = 2**28


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Filter:
    """y = d s + IDFT(H DFT(s)), with period L.

    Attributes:
        direct: `[...]`, d, the gain of the direct sound: apart from the rest, so that
            a response of one 1 changes no bit.
        rest: `[..., L // 2 + 1]` complex, H, of the other samples of a response.
        length: L.
    """

    direct: jax.Array
    rest: jax.Array
    length: int = dataclasses.field(metadata={"static": True})

    def __call__(self, sound: jax.Array) -> jax.Array:
        """A period `[L]` of a sound after it."""
        echoes = jnp.fft.irfft(jnp.fft.rfft(sound) * self.rest, self.length)
        return self.direct * sound + echoes


def fast_length(least: int) -> int:
    """The shortest length from `least` on whose transform is fast."""
    return scipy.fft.next_fast_len(least, real=True)


def filter_of(responses: jax.Array, *, direct: int, length: int) -> Filter:
    """The filter of responses, without delay: time 0 is the direct sound.

    H[f] = sum_{k != d} h[k] exp(-2 pi i f (k - d) / L)

    Args:
        responses: `[..., K]`, h; K may exceed L.
        direct: d.
        length: L.
    """
    *others, num_taps = responses.shape
    rest = responses.at[..., direct].set(0.0)
    # Samples that are L apart meet the same sample of a sound of period L.
    rest = jnp.pad(rest, [(0, 0)] * len(others) + [(0, -num_taps % length)])
    folded = jnp.sum(rest.reshape(*others, -1, length), axis=-2)
    spectrum = jnp.fft.rfft(jnp.roll(folded, -direct, axis=-1))
    return Filter(responses[..., direct], spectrum, length)


def in_series(first: Filter, second: Filter) -> Filter:
    """One after the other: (d + H) (e + G) = d e + (d G + e H + H G)."""
    (d, h), (e, g) = ((f.direct[..., None], f.rest) for f in (first, second))
    rest = d.astype(g.dtype) * g + e.astype(h.dtype) * h + h * g
    return Filter(first.direct * second.direct, rest, first.length)


class Bank(NamedTuple):
    """Impulse responses `[R, K]`, and their filters where they were made beforehand."""

    responses: jax.Array
    filters: Filter | None = None

    def ready(self, direct: int, length: int) -> "Bank":
        """The bank with the filters of all responses, unless they were too large."""
        if 4 * self.responses.shape[0] * length > MOST_BYTES:
            return self
        made = filter_of(self.responses, direct=direct, length=length)
        return self._replace(filters=made)

    def draw(self, key: jax.Array, direct: int, length: int) -> Filter:
        """The filter of one response, of each as likely as of any other."""
        num_rooms = self.responses.shape[0]
        index = 0
        if num_rooms > 1:
            index = jax.random.randint(key, (), 0, num_rooms, jnp.int32)
        if self.filters is not None and self.filters.length == length:
            return jax.tree.map(lambda leaf: leaf[index], self.filters)
        return filter_of(self.responses[index], direct=direct, length=length)
