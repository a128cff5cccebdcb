"""Classifiers of other frameworks as `models.Classifier`.

A JAX classifier, of whatever library, needs no bridge: the attacks take any
`logits_fn(variables, x)`.
"""

from uap_jax.bridges.callback import from_numpy, from_numpy_vjp
from uap_jax.bridges.checks import check_logits
from uap_jax.bridges.hugging_face import from_transformers
from uap_jax.bridges.network_files import from_torch_file
from uap_jax.bridges.onnx import from_onnx
from uap_jax.bridges.tflite import from_tflite
from uap_jax.bridges.torch_modules import from_torch

__all__ = [
    "check_logits",
    "from_numpy",
    "from_numpy_vjp",
    "from_onnx",
    "from_tflite",
    "from_torch",
    "from_torch_file",
    "from_transformers",
]
