"""TFLite files as functions in JAX."""

from uap_jax.bridges.tflite.classifier import Network, from_tflite, read_network

__all__ = ["Network", "from_tflite", "read_network"]
