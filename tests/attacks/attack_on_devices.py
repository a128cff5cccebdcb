"""Attacks on some devices, for test_devices.

In a process of its own, on those of all processes:
attack_on_devices.py FILE PORT PROCESS NUM_PROCESSES
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

from uap_jax import attacks

CONFIGS = {
    "penalty": attacks.PenaltyConfig(
        batch_size=8,
        micro_batch_size=4,
        max_passes=3,
        learning_rate=0.05,
        penalty_coefficient=20.0,
    ),
    "greedy": attacks.GreedyConfig(
        max_passes=2, batch_size=2, radius=0.3, ddn=attacks.DDNConfig(num_steps=8)
    ),
}


def logits(variables, x):
    return jnp.tanh((x - 0.5) @ variables["hidden"]) @ variables["out"]


def attack(devices):
    """Returns the perturbations that the attacks find."""
    keys = jax.random.split(jax.random.key(0), 4)
    variables = {
        "hidden": jax.random.normal(keys[0], (24, 8)),
        "out": 3 * jax.random.normal(keys[1], (8, 4)),
    }
    x = jax.random.uniform(keys[2], (18, 24))
    labels = jnp.argmax(logits(variables, x), axis=1).astype(jnp.int32)
    variables, x, labels, key = attacks.replicated(
        (variables, x, labels, keys[3]), devices
    )
    logits_fn = logits
    if len(devices) > 1:
        logits_fn = attacks.over_devices(logits, devices)
        assert logits_fn is attacks.over_devices(logits, devices)
        spread = jax.jit(logits_fn)(variables, x[:16]).sharding
        assert spread.device_set == set(devices)
        assert not spread.is_fully_replicated
    found = {}
    for method, config in CONFIGS.items():
        result = getattr(attacks, method)(
            logits_fn, variables, x, labels, key=key, target=1, config=config
        )
        found[method] = np.asarray(result.perturbation.value)
    return found


def main(path, port, process, num_processes):
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", int(num_processes), int(process))
    assert jax.device_count() == int(num_processes)
    # That no devices are named means all of them.
    assert attacks.over_devices(logits) is attacks.over_devices(logits, jax.devices())
    found = attack(jax.devices())
    if process == "0":
        np.savez(path, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
