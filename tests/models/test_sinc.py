"""The sinc layer: its filters, their start, and gradients everywhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uap_jax.models.sinc import (
    SincBank,
    band_edges_hz,
    initial_band_edges_hz,
    initial_bands_hz,
    sinc_filters,
)

SAMPLE_RATE_HZ = 16_000


def variables_of(num_filters: int) -> dict:
    module = SincBank(num_filters)
    x = jnp.zeros((1, 251))
    params = jax.jit(module.init)(jax.random.key(0), x)["params"]
    return {"params": {"sinc": params}}


def filters_by_definition(edges_hz: np.ndarray) -> np.ndarray:
    """A difference of two low-pass filters, divided by its largest tap, windowed."""
    t = np.arange(-125, 126)[:, None]
    low, high = (edges_hz.T / SAMPLE_RATE_HZ).astype(np.float64)
    bands = 2 * high * np.sinc(2 * high * t) - 2 * low * np.sinc(2 * low * t)
    window = 0.54 - 0.46 * np.cos(2 * np.pi * np.linspace(0, 251, 251) / 251)
    return bands / bands.max(axis=0) * window[:, None]


@pytest.mark.parametrize("num_filters", [80, 227])
def test_filters_are_those_of_the_definition(num_filters):
    edges_hz = np.asarray(band_edges_hz(variables_of(num_filters)))
    low, width = edges_hz[:, 0], edges_hz[:, 1] - edges_hz[:, 0]
    filters = sinc_filters(
        jnp.asarray(low / SAMPLE_RATE_HZ), jnp.asarray(width / SAMPLE_RATE_HZ)
    )
    assert filters.shape == (251, num_filters)
    np.testing.assert_allclose(filters, filters_by_definition(edges_hz), atol=1e-4)
    np.testing.assert_array_equal(filters[125], 1.0)


@pytest.mark.parametrize(("num_filters", "num_above"), [(80, 1), (227, 3)])
def test_bands_start_where_the_authors_do(num_filters, num_above):
    edges_hz = np.asarray(band_edges_hz(variables_of(num_filters)))
    assert edges_hz.shape == (num_filters, 2)
    assert edges_hz[0, 0] == pytest.approx(30 + 50, abs=0.01)
    # Nothing holds the upper edges below half the sample rate.
    assert np.sum(edges_hz[:, 1] > SAMPLE_RATE_HZ / 2) == num_above
    _, width_hz = initial_bands_hz(num_filters, sample_rate_hz=SAMPLE_RATE_HZ)
    assert (width_hz[-1] < 0) == (num_filters == 227)
    assert np.all(width_hz[:-1] > 0)


def test_edges_before_training_are_those_of_a_new_layer():
    np.testing.assert_array_equal(
        initial_band_edges_hz(80), band_edges_hz(variables_of(80))
    )


def test_lowest_filters_leak_a_resting_level():
    edges_hz = np.asarray(band_edges_hz(variables_of(80)))
    gains = np.abs(filters_by_definition(edges_hz).sum(axis=0))
    assert gains[:3] == pytest.approx([5.69, 0.94, 0.34], abs=0.01)
    assert np.all(gains[3:] < 0.4)


@pytest.mark.parametrize("level", [0.0, 0.1, 0.49])
def test_gradients_are_finite_at_every_edge(level):
    module = SincBank(3)
    x = jax.random.normal(jax.random.key(0), (1, 300))
    params = {"low": jnp.full(3, level), "width": jnp.full(3, level)}

    @jax.jit
    @jax.grad
    def gradient(params):
        return jnp.sum(module.apply({"params": params}, x) ** 2)

    for leaf in jax.tree.leaves(gradient(params)):
        assert bool(jnp.all(jnp.isfinite(leaf)))


def test_edges_keep_their_distance():
    zeros = {"params": {"sinc": {"low": jnp.zeros(2), "width": jnp.zeros(2)}}}
    edges_hz = band_edges_hz(zeros, sample_rate_hz=8_000)
    np.testing.assert_allclose(edges_hz, [[50, 100], [50, 100]], rtol=1e-6)
    negative = {"params": {"sinc": {"low": -jnp.ones(1), "width": -jnp.ones(1)}}}
    np.testing.assert_allclose(
        band_edges_hz(negative, sample_rate_hz=1_000), [[1_050, 2_100]], rtol=1e-6
    )
