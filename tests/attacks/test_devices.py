"""An attack on several devices, and on several processes, is that on one."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).with_name("attack_on_devices.py")


def start(path, *arguments, num_devices=1):
    flags = f"--xla_force_host_platform_device_count={num_devices}"
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(path), *arguments],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*processes):
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    path = tmp_path_factory.mktemp("alone") / "found.npz"
    finish(start(path))
    return np.load(path)


def assert_same(path, expected, *, num_devices):
    found = np.load(path)
    assert (found["num_devices"], expected["num_devices"]) == (num_devices, 1)
    for method in ("penalty", "greedy"):
        assert np.any(expected[method] != 0)
        np.testing.assert_allclose(found[method], expected[method], atol=1e-5)


def test_two_devices(alone, tmp_path):
    finish(start(tmp_path / "found.npz", num_devices=2))
    assert_same(tmp_path / "found.npz", alone, num_devices=2)


def test_two_processes(alone, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    path = tmp_path / "found.npz"
    finish(*(start(path, port, str(process), "2") for process in range(2)))
    assert_same(path, alone, num_devices=2)
