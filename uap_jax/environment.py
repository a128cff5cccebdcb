"""Hardware, versions, and the time and memory of compiled programs."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import jax
import jax.monitoring

from uap_jax import __version__
from uap_jax.errors import UsageError

# Seconds of a segment: long enough to cost nothing and short enough to be lost.
SHORT_SEGMENT_S, LONG_SEGMENT_S = 5.0, 20.0
MAX_SEGMENT_STEPS = 2**20

_compile_seconds = [0.0]


def compile_seconds() -> float:
    """Returns the seconds that JAX has spent on lowering and compiling so far."""
    return _compile_seconds[0]


def _listen(event: str, duration_secs: float, **_: Any) -> None:
    # Traces nest, so that their times would count twice.
    if event.startswith("/jax/core/compile/") and "trace" not in event:
        _compile_seconds[0] += duration_secs


jax.monitoring.register_event_duration_secs_listener(_listen)


def segment_steps(max_steps: int, seconds: float) -> int:
    """Returns how many steps the next segment has, after one of some seconds."""
    if seconds < SHORT_SEGMENT_S:
        return min(2 * max_steps, MAX_SEGMENT_STEPS)
    return max(1, max_steps // 2) if seconds > LONG_SEGMENT_S else max_steps


def memory_bytes() -> int:
    """Returns the memory of the first device; on a CPU the machine's."""
    stats = jax.local_devices()[0].memory_stats() or {}
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return stats.get("bytes_limit", machine)


def check_devices() -> None:
    """Raises `UsageError` if the device that the user asks for is not there."""
    try:
        jax.devices()
    except (AssertionError, RuntimeError) as error:
        asked = jax.config.values["jax_platforms"] or ""
        raise UsageError(f"JAX_PLATFORMS={asked}: no such device. {error}") from error


def cache_compilations(folder: Path) -> None:
    """Caches compiled programs on disk for later processes, if it can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except PermissionError:  # A cache that another user shares.
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the libraries that results depend on."""
    names = ("jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint", "soxr")
    installed = {name: importlib.metadata.version(name) for name in names}
    return {"uap_jax": __version__, "python": platform.python_version(), **installed}


def hardware() -> dict[str, Any]:
    """Returns the device that JAX uses, and the CPU."""
    return {
        "device": jax.devices()[0].device_kind,
        "platform": jax.default_backend(),
        "num_devices": jax.device_count(),
        "processor": _processor(),
        "num_cores": os.cpu_count(),
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
