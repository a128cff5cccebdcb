"""An attack on several devices, and on several processes, is that on one."""

import os
import socket
import subprocess
import sys

import attack_on_devices
import jax
import numpy as np
import pytest


def start(path, *arguments):
    flags = "--xla_force_host_platform_device_count=1"
    # Most of the time is compiling; where conftest cuts that short, here too.
    if shorter := os.environ.get("XLA_FLAGS"):
        flags += f" {shorter} --xla_backend_optimization_level=0"
    return subprocess.Popen(
        [sys.executable, attack_on_devices.__file__, str(path), *arguments],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*processes):
    try:
        outputs = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output


@pytest.fixture(scope="module")
def alone():
    return attack_on_devices.attack(jax.devices("cpu")[:1])


def assert_same(found, expected):
    for method in ("penalty", "greedy"):
        assert np.any(expected[method] != 0)
        np.testing.assert_allclose(found[method], expected[method], atol=1e-5)


def test_two_devices(alone):
    devices = jax.devices("cpu")
    assert len(devices) == 2
    assert_same(attack_on_devices.attack(devices), alone)


def test_two_processes(alone, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    path = tmp_path / "found.npz"
    finish(*(start(path, port, str(process), "2") for process in range(2)))
    assert_same(np.load(path), alone)
