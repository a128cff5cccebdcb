"""Writes golden/*.json: what 20 optimizer steps, or a greedy attack, of a case give.

To run after a change that is meant to change results:

    python tests/attacks/regenerate_golden.py
"""

import json
import pathlib

import jax
import numpy as np
from toy_networks import mlp_logits, mlp_problem

from uap_jax import attacks

FOLDER = pathlib.Path(__file__).parent / "golden"

# 24 clips in batches of 7: three whole batches and one of 3, five passes.
_PENALTY = {
    "batch_size": 7,
    "micro_batch_size": 3,
    "max_passes": 5,
    "target_asr": 1.0,
    "learning_rate": 0.02,
    # Large, for near v' = 0 the level's gradient makes every step a matter of rounding.
    "penalty_coefficient": 5.0,
}
# The target and the config of each case.
CASES = {
    "targeted_sum": (2, attacks.PenaltyConfig(**_PENALTY)),
    "untargeted_sum": (None, attacks.PenaltyConfig(**_PENALTY, l2_radius=0.4)),
    "greedy_untargeted": (
        None,
        attacks.GreedyConfig(
            norm="l2",
            radius=0.6,
            max_passes=4,
            ddn=attacks.DDNConfig(num_steps=10),
        ),
    ),
}


def run_case(name):
    """Runs a case and returns what its file holds, not rounded."""
    target, config = CASES[name]
    result = attacks.run(
        mlp_logits,
        *mlp_problem(),
        key=jax.random.key(17),
        target=target,
        config=config,
    )
    return {
        "stop_reason": attacks.STOP_REASONS[int(result.stop_reason)],
        "num_passes": int(result.num_passes),
        "value": np.asarray(result.perturbation.value).tolist(),
        "history": {
            field: np.asarray(values).tolist()
            for field, values in sorted(result.history.items())
        },
    }


def main():
    for name in CASES:
        golden = run_case(name)
        golden["value"] = [float(f"{number:.6g}") for number in golden["value"]]
        golden["history"] = {
            field: [float(f"{number:.6g}") for number in numbers]
            for field, numbers in golden["history"].items()
        }
        path = FOLDER / f"{name}.json"
        path.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
