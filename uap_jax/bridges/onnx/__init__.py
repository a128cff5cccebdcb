"""ONNX files as functions in JAX.

jaxonnxruntime would be the library for this: its gradients are right, but its last
release (0.3.0) is of August 2023, and it lacks recurrent layers, STFT and DFT,
transposed convolutions, layer and instance normalisation and all quantised operations;
jax2onnx writes ONNX files only. So the operations of audio classifiers are here.
"""

from uap_jax.bridges.onnx.classifier import Network, from_onnx, read_onnx

__all__ = ["Network", "from_onnx", "read_onnx"]
