"""Whether a classifier is still the one that it was: its logits of fixed clips.

Weights may be anywhere, and code counts too, so that no hash of files or variables
tells. On one machine with the same versions the logits are compared to the last bit.
Elsewhere, on an accelerator, and for a classifier that itself gives other bits for the
same clips, they are compared up to rounding.
"""

import hashlib
import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

# Of the largest logit: what rounding changes, and threads, compilers and processors.
TOLERANCE = 1e-4
# Libraries that compute logits; only those that are loaded count.
_LIBRARIES = (
    *("jax", "jaxlib", "numpy", "flax"),
    *("torch", "transformers", "onnx", "onnx2torch"),
)
_ENVIRONMENT = ("XLA_FLAGS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def measure(logits_of: Callable[[], np.ndarray]) -> dict[str, Any]:
    """Returns what `difference` compares, for a JSON file.

    Args:
        logits_of: Computes the logits `[B, C]` of the probe clips.
    """
    logits, again = np.asarray(logits_of()), np.asarray(logits_of())
    return {
        "hash": hashlib.sha256(logits.tobytes()).hexdigest(),
        "logits": [[float(f"{v:.7g}") for v in row] for row in logits.tolist()],
        "is_exact": logits.tobytes() == again.tobytes(),
        "machine": _machine(),
    }


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Returns how the logits of two `measure` differ; empty where they do not."""
    if before["hash"] == now["hash"]:
        return ""
    old, new = np.asarray(before["logits"]), np.asarray(now["logits"])
    if old.shape != new.shape:
        return f"logits {new.shape} of the probe clips instead of {old.shape}"
    scale = max(float(np.max(np.abs(old))), 1e-30)
    relative = float(np.max(np.abs(new - old))) / scale
    why = _why_inexact(before, now)
    if why and relative <= TOLERANCE:
        return ""
    size = f"{relative:.1g} of the largest" if relative > 1e-7 else "their last bits"
    compared = f"; compared up to {TOLERANCE:g}, as {why}" if why else ""
    return f"its logits of the same clips differ by {size}{compared}"


def _why_inexact(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    if not (before["is_exact"] and now["is_exact"]):
        return "it gives other bits for the same clips each time"
    if before["machine"] != now["machine"]:
        return "this is another machine, or has other versions"
    if now["machine"]["platform"] != "cpu":
        return "an accelerator's compiler may choose other kernels each time"
    return ""


def _machine() -> dict[str, Any]:
    """Returns what the last bits of logits may depend on."""
    processor = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            lines = [line for line in file if line.startswith(("model name", "flags"))]
        processor = hashlib.sha256("".join(sorted(set(lines))).encode()).hexdigest()
    except OSError:
        pass
    return {
        "platform": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "processor": processor[:16],
        "num_cores": len(os.sched_getaffinity(0)),
        "versions": {
            name: importlib.metadata.version(name)
            for name in _LIBRARIES
            if name in sys.modules
        },
        "environment": {name: os.environ.get(name, "") for name in _ENVIRONMENT},
    }
