"""The networks' operations in two forms: `plain`, XLA's own, and `fast` for CPUs.

XLA's CPU backend has no fast path for convolutions of one channel, for those without
padding, for the gradients of most others once they stand inside a loop, nor for the
gradient of its pooling. `fast` rewrites them; both forms are equal to rounding in
values and gradients. The fast convolutions have derivatives in reverse mode only.
"""

from types import ModuleType

import jax

from uap_jax.models.kernels import fast, plain


def ops() -> ModuleType:
    """Returns the form for where this is traced: `fast` on a CPU, `plain` elsewhere."""
    return fast if jax.default_backend() == "cpu" else plain
