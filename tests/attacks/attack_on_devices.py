"""Attacks on the devices of several processes, for test_devices.

attack_on_devices.py FILE PORT PROCESS NUM_PROCESSES
"""

import sys

import jax
import numpy as np
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


def attack(logits_fn, arrays):
    """The perturbations of all methods."""
    *arguments, key = arrays
    return {
        method: np.asarray(
            attacks.run(
                logits_fn, *arguments, key=key, target=1, config=config
            ).perturbation.value
        )
        for method, config in CONFIGS.items()
    }


def arrays():
    return (*linear_problem(num_clips=18), jax.random.key(3))


def main(path, port, process, num_processes):
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", int(num_processes), int(process))
    assert jax.device_count() == int(num_processes)
    # That no devices are named means all of them.
    spread = attacks.over_devices(linear_logits)
    assert spread is attacks.over_devices(linear_logits, jax.devices())
    values = attack(spread, attacks.replicated(arrays()))
    if process == "0":
        np.savez(path, **values)


if __name__ == "__main__":
    main(*sys.argv[1:])
