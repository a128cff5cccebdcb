"""What the benchmarks share: inputs, timing, the machine, where results go."""

import datetime
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from absl import logging

from uap_jax import models

# OpenMP's threads wait actively for a while, at the cost of whoever comes next.
PAUSE_S = 0.3

Variables = dict[str, Any]
RunFn = Callable[[], Any]


def use_all_cores() -> dict[str, Any]:
    """Sets both frameworks to this machine's cores; returns facts about it."""
    jax.config.update("jax_platforms", "cpu")
    num_cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(num_cores)
    torch.manual_seed(0)
    load = os.getloadavg()[0]
    if load > 0.3:
        logging.warning("the machine is not idle: load average %.2f", load)
    return {
        "cpu": cpu_name(),
        "num_cores": num_cores,
        "torch_threads": torch.get_num_threads(),
        "load_average_before": load,
    }


def versions_of(packages: Sequence[str]) -> dict[str, str]:
    """Returns the versions of Python and of packages."""
    found = {name: importlib.metadata.version(name) for name in packages}
    return {"python": platform.python_version(), **found}


def random_clips(num_clips: int, num_samples: int, *, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 1, (num_clips, num_samples)).astype(np.float32)


def random_variables(spec: models.Architecture) -> Variables:
    """Random weights, and the statistics that random clips have under them."""
    variables = spec.init(jax.random.key(0))
    x = jnp.asarray(random_clips(8, spec.num_samples, seed=0))
    apply_train = jax.jit(spec.apply_train)
    for _ in range(40):
        variables = {**variables, **apply_train(variables, x, jax.random.key(0))[1]}
    return jax.device_get(variables)


def seconds_of(run: RunFn) -> float:
    time.sleep(PAUSE_S)
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure_matmul_flops() -> float:
    """Returns the best float32 matrix-multiply rate of a few tries, in FLOP/s."""
    rng = np.random.default_rng(0)
    a = jnp.asarray(rng.normal(size=(4096, 1024)), jnp.float32)
    b = jnp.asarray(rng.normal(size=(1024, 1024)), jnp.float32)
    product = jax.jit(jnp.dot)
    product(a, b).block_until_ready()
    time.sleep(PAUSE_S)
    seconds = []
    for _ in range(20):
        start = time.perf_counter()
        product(a, b).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * 4096 * 1024 * 1024 / min(seconds)


def cpu_name() -> str:
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.exists():
        for line in cpu_info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def machine_lines(results: dict[str, Any]) -> list[str]:
    """Returns what a table says of the machine, the versions and the day."""
    machine = results["machine"]
    versions = ", ".join(f"{name} {v}" for name, v in results["versions"].items())
    return [
        f"- {machine['cpu']}, {machine['num_cores']} cores, {machine['torch_threads']} "
        f"PyTorch threads; load average before: {machine['load_average_before']:.2f}.",
        f"- {versions}; {results['date']}.",
    ]


def today() -> str:
    return datetime.date.today().isoformat()


def write_results(results: dict[str, Any], table: str, output: str | None) -> None:
    """Prints the table, and writes OUTPUT.json and OUTPUT.md if there is an OUTPUT."""
    print(table)
    if output is not None:
        path = Path(output)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".json").write_text(json.dumps(results, indent=2) + "\n")
        path.with_suffix(".md").write_text(table)
