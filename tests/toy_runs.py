"""A small classifier and attacks on it, as runs have them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from uap_jax.attacks import PassConfig
from uap_jax.attacks.loop import resolve_config
from uap_jax.attacks.methods import METHODS
from uap_jax.console import Console
from uap_jax.data.dataset import Dataset
from uap_jax.models import Classifier
from uap_jax.runs import run as runs
from uap_jax.runs.attack import Prepared
from uap_jax.runs.config import RunConfig
from uap_jax.runs.corpus import Clips, attack_clips
from uap_jax.runs.victim import Victim

NUM_CLIPS, NUM_SAMPLES = 23, 40

SETTINGS = {
    "penalty": {"batch_size": 5},
    # Blocks and batches that do not divide the clips, so that a cut leaves a part.
    "greedy": {"batch_size": 3, "micro_batch_size": 4, "shuffle": True},
    "decoupled": {"batch_size": 5, "asr_levels": (0.5,), "level_passes": 2},
}


def logits(variables, x):
    return jnp.tanh(x @ variables["hidden"]) @ variables["out"]


def make_victim():
    keys = jax.random.split(jax.random.key(0), 2)
    variables = {
        "hidden": jax.random.normal(keys[0], (NUM_SAMPLES, 8)),
        "out": 3 * jax.random.normal(keys[1], (8, 3)),
    }
    return Victim(Classifier(logits, variables, NUM_SAMPLES, 16_000), {"name": "x"}, 0)


VICTIM = make_victim()
NAMES = np.arange(NUM_CLIPS).astype(str)
DATASET = Dataset(
    name="toy",
    clips=np.random.default_rng(0).integers(
        -32000, 32000, (NUM_CLIPS, NUM_SAMPLES), np.int16
    ),
    labels=np.arange(NUM_CLIPS, dtype=np.int32) % 3,
    class_names=("a", "b", "c"),
    groups=NAMES,
    names=NAMES,
    sample_rate_hz=16_000,
    fingerprint="toy",
)


def attack_config(method="penalty", *, max_passes=4, **changes) -> PassConfig:
    settings = {"target_asr": 1.0, "max_passes": max_passes} | SETTINGS[method]
    config = METHODS[method].config_type(**settings | changes)
    return resolve_config(config, targeted=True, num_clips=NUM_CLIPS)


def prepare(workdir, *, method="penalty", target=1, **changes):
    """What a run of the toy has before its attack."""
    config = RunConfig(
        method=method,
        target="abc"[target],
        scaling="fixed",
        attack=attack_config(method, **changes),
    )
    (workdir / "checkpoints").mkdir(parents=True, exist_ok=True)
    clips = Clips(DATASET, target, np.arange(NUM_CLIPS), np.arange(NUM_CLIPS))
    keys = jax.random.split(jax.random.key(7))
    return Prepared(config, workdir, Console(), clips, VICTIM, 1.0, keys)


def attack(*prepared, width=1):
    """Runs or resumes attacks."""
    x, labels = attack_clips(prepared[0].config, prepared[0].clips)
    return runs.run_attacks(prepared, x, labels, width)


def changed(prepared, **changes):
    """The same run with other numbers of its attack."""
    config = prepared.config
    attack = dataclasses.replace(config.attack, **changes)
    return prepared._replace(config=dataclasses.replace(config, attack=attack))
