"""Strict JAX settings for every test."""

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 2)


def pytest_collection_modifyitems(items):
    """Puts the longest tests first, so that processes end at about the same time."""
    items.sort(key=lambda item: item.path.parent.name != "experiments")


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(0)
