"""Operations of a network, and how many a second the device can do at most."""

import re
from typing import Any

import harness
import jax
import jax.numpy as jnp

from uap_jax.models import Architecture, kernels

# Dense TFLOP/s of float32 on plain cores and of TF32 on matrix cores, None where the
# chip has none, from NVIDIA's data sheets (www.nvidia.com/en-us/data-center, the pages
# of the chips; H100 to L4 state TF32 with sparsity, of which half is dense). The first
# name that is a word of JAX's `device_kind` counts.
CHIPS: dict[str, tuple[float, float | None]] = {
    "H200 NVL": (60.0, 417.5),
    "H200": (67.0, 494.5),
    "H100 NVL": (60.0, 417.5),
    "H100 PCIe": (51.0, 378.0),
    "H100": (67.0, 494.5),
    "A100": (19.5, 156.0),
    "L40S": (91.6, 183.0),
    "L4": (30.3, 60.0),
    "A10": (31.2, 62.5),
    "T4": (8.1, None),
    "V100": (15.7, None),
}


def chip_tflops(device_kind: str) -> tuple[float, float | None] | None:
    """Returns float32 and TF32 rates of a chip, or None if it is not in the table."""
    for name, tflops in CHIPS.items():
        if re.search(rf"\b{name}\b", device_kind):
            return tflops
    return None


def precisions(device_kind: str, platform: str) -> tuple[str, ...]:
    """Returns how factors can be rounded there, the default first."""
    tflops = chip_tflops(device_kind)
    lacks_tf32 = tflops is not None and tflops[1] is None
    return ("float32",) if platform == "cpu" or lacks_tf32 else ("tf32", "float32")


def peak(precision: str) -> harness.Results:
    """Returns the largest rate of the device, FLOP/s, its source, and a measured one.

    Where no data sheet is known, the measured rate is the peak.
    """
    measured = matmul_flops()
    tflops = chip_tflops(jax.devices()[0].device_kind)
    of_sheet = None if tflops is None else tflops[precision == "tf32"]
    return {
        "flops": measured if of_sheet is None else of_sheet * 1e12,
        "source": "a large matrix product" if of_sheet is None else "NVIDIA data sheet",
        "matmul_flops": measured,
    }


def matmul_flops() -> float:
    """Returns the best rate of products of float32 matrices, FLOP/s."""
    rows, columns = (4096, 1024) if jax.default_backend() == "cpu" else (8192, 8192)
    keys = jax.random.split(jax.random.key(0))
    a = jax.random.normal(keys[0], (rows, columns))
    b = jax.random.normal(keys[1], (columns, columns))
    product = jax.jit(jnp.dot)
    harness.wait_for(product(a, b))
    seconds = harness.in_turns({"": lambda: product(a, b)}, 1)[""]
    seconds += [harness.timed_alone(lambda: product(a, b)) for _ in range(20)]
    return 2 * rows * columns * columns / min(seconds)


def flops_per_clip(spec: Architecture, variables: Any) -> float:
    """Counts the operations of one clip's logits and input gradient.

    As XLA counts them in the program before it is optimised, of the plain form of the
    layers, which does no more than what is needed.
    """
    gradient = jax.grad(harness.loss_of(spec, kernels.plain), has_aux=True)
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), variables
    )
    clip = jax.ShapeDtypeStruct((1, spec.num_samples), jnp.float32)
    label = jax.ShapeDtypeStruct((1,), jnp.int32)
    analysis = jax.jit(gradient).lower(clip, shapes, label).cost_analysis()
    return float(analysis["flops"])
