"""What a run ran on, and what compiling cost it."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any


class CompileClock:
    """Adds up the seconds that JAX spends on lowering and compiling."""

    def __init__(self) -> None:
        import jax.monitoring

        self.seconds = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **_: Any) -> None:
        # Traces nest, so that their times would count twice.
        if event.startswith("/jax/core/compile/") and "trace" not in event:
            self.seconds += duration_secs


def cache_compilations(folder: Path) -> None:
    """Keeps compiled programs on disk, so that the next process need not wait."""
    import jax

    folder.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the libraries that results depend on."""
    names = ("jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint", "soxr")
    found = {name: importlib.metadata.version(name) for name in names}
    from uap_jax import __version__

    return {"uap_jax": __version__, "python": platform.python_version(), **found}


def hardware() -> dict[str, Any]:
    """Returns the device that JAX uses, and the processor."""
    import jax

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
