"""Strict JAX settings for every test."""

import importlib.metadata
import os

# Most of the suite's time is compiling, which XLA's older code generator does in some
# 60 % of the time. Only for this version, as an unknown flag ends the process;
# `XLA_FLAGS= pytest` runs the suite as users run JAX.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")

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
