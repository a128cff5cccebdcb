"""An attack over the devices of two processes is that on one.

As a program, one of these processes: test_devices.py FILE PORT PROCESS NUM_PROCESSES
"""

import functools
import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from toy_networks import linear_logits, linear_problem

from uap_jax import attacks

CONFIGS = {
    "penalty": attacks.PenaltyConfig(
        batch_size=8,
        micro_batch_size=4,
        max_passes=3,
        learning_rate=0.02,
        # Far from silence, where the level's gradient makes rounding grow fast.
        penalty_coefficient=20.0,
    ),
    "decoupled": attacks.DecoupledConfig(batch_size=8, max_passes=3),
}


def problem():
    return (*linear_problem(num_clips=18), jax.random.key(3))


def attack(logits_fn, arrays):
    """The perturbation of each method."""
    *arguments, key = arrays
    run = functools.partial(attacks.run, logits_fn, *arguments, key=key, target=1)
    results = {method: run(config=config) for method, config in CONFIGS.items()}
    return {name: np.asarray(r.perturbation.value) for name, r in results.items()}


def main(path, port, process, num_processes):
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", int(num_processes), int(process))
    assert jax.device_count() == int(num_processes)
    # That no devices are named means all of them.
    spread = attacks.over_devices(linear_logits)
    assert spread is attacks.over_devices(linear_logits, jax.devices())
    values = attack(spread, attacks.replicated(problem()))
    if process == "0":
        np.savez(path, **values)


def start(*arguments):
    flags = "--xla_force_host_platform_device_count=1"
    # Most of the time is compiling; where conftest cuts that short, here too.
    if shorter := os.environ.get("XLA_FLAGS"):
        flags += f" {shorter} --xla_backend_optimization_level=0"
    return subprocess.Popen(
        [sys.executable, __file__, *map(str, arguments)],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_two_processes(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = tmp_path / "values.npz"
    processes = [start(path, port, process, 2) for process in range(2)]
    try:
        outputs = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output
    expected = attack(linear_logits, problem())
    for method, value in np.load(path).items():
        assert np.any(value != 0)
        np.testing.assert_allclose(value, expected[method], rtol=0, atol=1e-5)


if __name__ == "__main__":
    main(*sys.argv[1:])
