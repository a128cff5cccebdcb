"""Strict JAX settings for every test, and short compilations."""

import importlib.metadata
import os

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 2)

# Most of the suite's time is compiling, which XLA's older code generator, without
# optimizing, does in some 40 % of the time. Launchers in processes of their own train
# networks, where optimizing pays. Only for this version, as an unknown flag ends the
# process; `XLA_FLAGS= pytest` runs the suite as users run JAX.
OLDER_GENERATOR = "--xla_cpu_use_fusion_emitters=false"
if (
    importlib.metadata.version("jaxlib").startswith("0.10.")
    and os.environ.get("XLA_FLAGS", OLDER_GENERATOR) == OLDER_GENERATOR
):
    os.environ["XLA_FLAGS"] = f"{OLDER_GENERATOR} --xla_backend_optimization_level=0"
    # Flags are read once, with the first program.
    jax.jit(lambda: 0)()
    os.environ["XLA_FLAGS"] = OLDER_GENERATOR


def pytest_collection_modifyitems(items):
    """Puts the longest tests first, so that processes end at about the same time."""
    items.sort(key=lambda item: item.path.parent.name != "experiments")


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(0)
