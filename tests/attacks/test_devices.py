"""An attack over the devices of two processes is that on one."""

import os
import socket
import subprocess
import sys

import attack_on_devices
import numpy as np
import pytest
from toy_networks import linear_logits


def start(*arguments):
    flags = "--xla_force_host_platform_device_count=1"
    # Most of the time is compiling; where conftest cuts that short, here too.
    if shorter := os.environ.get("XLA_FLAGS"):
        flags += f" {shorter} --xla_backend_optimization_level=0"
    return subprocess.Popen(
        [sys.executable, attack_on_devices.__file__, *map(str, arguments)],
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
    expected = attack_on_devices.attack(linear_logits, attack_on_devices.arrays())
    for method, value in np.load(path).items():
        assert np.any(value != 0)
        np.testing.assert_allclose(value, expected[method], rtol=0, atol=1e-5)
