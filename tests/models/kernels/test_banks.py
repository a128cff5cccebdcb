"""The fast filter banks against the convolution, in values and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uap_jax.models.kernels import fast, plain
from uap_jax.models.kernels.banks import (
    BLOCK_OUTPUTS,
    CHUNK_BLOCKS,
    CHUNK_STEPS,
    MIN_FFT_SIZE,
    fft_bank,
    folded_bank,
    folded_blocks_bank,
)

NUM_TAPS = 65
BLOCK = MIN_FFT_SIZE - NUM_TAPS + 1  # outputs of one transform
# Compiling takes nearly all the time here.
QUICKLY = {"xla_backend_optimization_level": 0}


def normal(*shape: int) -> jax.Array:
    rng = np.random.default_rng(shape)
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


@pytest.mark.parametrize(
    ("num_clips", "num_outputs", "pool_size"),
    [
        (1, 1, 1),
        (2, BLOCK, 1),  # a transform filled to its last sample
        (1, BLOCK + 1, 1),
        (1, 3 * BLOCK - 4, 8),
        (2, 701, 218),  # the remainder is dropped
    ],
)
def test_forms_agree(num_clips, num_outputs, pool_size):
    x, filters = normal(num_clips, num_outputs + NUM_TAPS - 1), normal(NUM_TAPS, 3)
    direction = normal(num_clips, num_outputs // pool_size, 3)

    @functools.partial(jax.jit, compiler_options=QUICKLY)
    def run(x, filters, direction):
        values = []
        for bank in (fft_bank, plain.filter_bank):
            pooled = functools.partial(bank, pool_size=pool_size)
            y, pull_back = jax.vjp(pooled, x, filters)
            values.append((y, *pull_back(direction)))
        return values

    results, references = run(x, filters, direction)
    for value, expected in zip(results, references, strict=True):
        assert value.shape == expected.shape
        # A transform spreads its rounding over the block.
        np.testing.assert_allclose(
            value, expected, rtol=0, atol=1e-5 * np.abs(expected).max()
        )


@pytest.mark.parametrize(
    ("bank", "num_clips", "num_taps", "num_outputs", "pool_size"),
    [
        (folded_bank, 1, 65, 1, 1),
        (folded_bank, 2, 65, CHUNK_STEPS, 1),  # a chunk filled to its last step
        (folded_bank, 1, 65, CHUNK_STEPS + 1, 1),
        (folded_bank, 2, 64, 2 * CHUNK_STEPS - 5, 3),  # blocks of an odd size
        (folded_bank, 2, 65, 701, 218),  # the remainder is dropped
        (folded_blocks_bank, 1, 65, 1, 1),
        (folded_blocks_bank, 1, 65, CHUNK_BLOCKS * BLOCK_OUTPUTS, 3),
        (folded_blocks_bank, 2, 64, CHUNK_BLOCKS * BLOCK_OUTPUTS - 7, 5),
        # A window wider than half a block.
        pytest.param(folded_blocks_bank, 1, 65, 701, 31, marks=pytest.mark.slow),
    ],
)
def test_forms_agree_on_symmetric_filters(
    bank, num_clips, num_taps, num_outputs, pool_size
):
    x, half = normal(num_clips, num_outputs + num_taps - 1), normal(num_taps, 2)
    direction = normal(num_clips, num_outputs // pool_size, 2)

    @functools.partial(jax.jit, compiler_options=QUICKLY)
    def run(x, half, direction):
        values = []
        for form in (bank, plain.filter_bank):
            pooled = functools.partial(form, pool_size=pool_size)
            y, pull_back = jax.vjp(
                lambda x, half, pooled=pooled: pooled(x, half + half[::-1]), x, half
            )
            values.append((y, *pull_back(direction)))
        return values

    results, references = run(x, half, direction)
    for value, expected in zip(results, references, strict=True):
        assert value.shape == expected.shape
        # Sums and differences spread their rounding over the block.
        np.testing.assert_allclose(
            value, expected, rtol=0, atol=1e-5 * np.abs(expected).max()
        )


@pytest.mark.parametrize("form", [fast, plain])
def test_bank_is_a_correlation(form):
    x, filters = normal(2, 300), normal(40, 3)
    y = form.filter_bank(x, filters)
    for clip in range(2):
        for channel in range(3):
            expected = np.correlate(
                np.asarray(x[clip], np.float64), np.asarray(filters[:, channel])
            )
            np.testing.assert_allclose(y[clip, :, channel], expected, atol=1e-4)


@pytest.mark.parametrize("form", [fast, plain])
def test_too_short_a_clip_is_an_error(form):
    with pytest.raises(ValueError, match="x: expected at least 40 steps, got 39"):
        form.filter_bank(normal(1, 39), normal(40, 3))
    with pytest.raises(ValueError, match="x: expected at least 8 steps, got 7"):
        form.filter_bank(normal(1, 46), normal(40, 3), pool_size=8)


def test_long_filters_get_a_longer_transform():
    shape = jax.eval_shape(
        functools.partial(fft_bank, pool_size=100),
        jax.ShapeDtypeStruct((2, 20_000), jnp.float32),
        jax.ShapeDtypeStruct((4_000, 3), jnp.float32),
    ).shape
    assert shape == (2, 160, 3)
