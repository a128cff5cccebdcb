"""A small classifier and attacks on it, as runs have them."""

import dataclasses

import jax
import jax.numpy as jnp

from uap_jax import models
from uap_jax.console import Console
from uap_jax.runs import attack, config

NUM_CLIPS, NUM_SAMPLES, NUM_CLASSES = 23, 40, 3


class InterruptedError(Exception):
    """Stands for the end of the process."""


def logits(variables, x):
    return jnp.tanh(x @ variables["hidden"]) @ variables["out"]


def make_problem():
    """Returns a classifier, clips and their labels."""
    keys = jax.random.split(jax.random.key(0), 3)
    variables = {
        "hidden": jax.random.normal(keys[0], (NUM_SAMPLES, 8)),
        "out": 3 * jax.random.normal(keys[1], (8, NUM_CLASSES)),
    }
    x = jax.random.uniform(keys[2], (NUM_CLIPS, NUM_SAMPLES))
    classifier = models.Classifier(logits, variables, NUM_SAMPLES, 16_000)
    return classifier, x, jnp.argmax(logits(variables, x), axis=1).astype("int32")


OVERRIDES = {
    "penalty": ["attack.batch_size=5"],
    # Blocks and batches that do not divide the clips, so that a cut finds some waiting.
    "greedy": ["attack.batch_size=3", "attack.micro_batch_size=4", "shuffle=true"],
    "decoupled": ["attack.batch_size=5", "asr_levels=0.5", "level_passes=2"],
}


def settings(max_passes=4, method="penalty"):
    base = config.resolve(
        method=method,
        model="spchcmd",
        dataset=None,
        data_dir=None,
        split=None,
        scaling="peak",
        target="down",
        num_attack_clips=NUM_CLIPS,
        seed=0,
        preset="default",
        overrides=[
            *OVERRIDES[method],
            "target_asr=1.0",
            f"max_passes={max_passes}",
        ],
        on_accelerator=False,
    )
    return dataclasses.replace(base, target=None)


def run(problem, workdir, console=None, method="penalty"):
    classifier, x, labels = problem
    return attack.run_attack(
        settings(method=method),
        classifier,
        x,
        labels,
        target=1,
        key=jax.random.key(7),
        workdir=workdir,
        console=console or Console(),
        save_every_s=0.0,
    )
