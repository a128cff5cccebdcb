"""Victim networks: `create(name, ...)` gives one as pure functions."""

from uap_jax.models.classifier import Classifier
from uap_jax.models.registry import MODEL_NAMES, Architecture, create

__all__ = ["MODEL_NAMES", "Architecture", "Classifier", "create"]
