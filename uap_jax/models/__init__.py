"""Victim networks: `create(name, ...)` gives one as pure functions."""

from uap_jax.models.registry import MODEL_NAMES, ModelSpec, OwnModel, create

__all__ = ["MODEL_NAMES", "ModelSpec", "OwnModel", "create"]
