"""Classifiers of other frameworks as logits functions for `uap_jax.attacks`.

A JAX classifier, of whatever library, needs no bridge: a logits function is any
`logits_fn(variables, x)`.
"""

from uap_jax.bridges.callback import from_numpy, from_numpy_vjp
from uap_jax.bridges.checks import check_logits
from uap_jax.bridges.onnx_files import from_onnx
from uap_jax.bridges.torch_files import from_torch_file
from uap_jax.bridges.torch_modules import from_torch

__all__ = [
    "check_logits",
    "from_numpy",
    "from_numpy_vjp",
    "from_onnx",
    "from_torch",
    "from_torch_file",
]
