"""Crafts perturbations with every method at several success rates, and evaluates them.

    python experiments/results/quietest/compare.py --dataset=speech_commands \\
        --data_dir=FOLDER --model=spchcmd --scaling=peak --seeds=0,1,2

All methods have the same victim (that of --victim_seed), attack clips and seeds. The
paper's methods continue from where they reached one success rate to the next, which is
what a run with the higher rate does. Each run adds a line to points.jsonl, and is not
run again if it is there. `tables.py` beside this file makes tables of the lines.
"""

import dataclasses
import itertools
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from uap_jax import attacks, environment, files
from uap_jax.attacks import types
from uap_jax.attacks.batches import all_logits
from uap_jax.attacks.equations import is_success
from uap_jax.audio import levels
from uap_jax.audio.box import to_box
from uap_jax.console import Console, run_app
from uap_jax.data.dataset import to_waveform
from uap_jax.files import default_cache_dir
from uap_jax.runs import corpus, victim
from uap_jax.runs.config import RunConfig
from uap_jax.runs.resolve import resolve

DATASET = flags.DEFINE_string("dataset", "speech_commands", "The corpus.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "Its folder.", required=True)
MODEL = flags.DEFINE_string("model", "spchcmd", "The victim.")
SCALING = flags.DEFINE_string("scaling", "peak", "Of clips to the box.")
VICTIM_SEED = flags.DEFINE_integer("victim_seed", 0, "Of the victim's training.")
SEEDS = flags.DEFINE_list("seeds", ["0"], "Of attack clips and batches.")
GOALS = flags.DEFINE_list("goals", ["untargeted", "each"], "Classes, each, untargeted.")
VARIANTS = flags.DEFINE_list(
    "variants", ["decoupled", "penalty"], "Methods, each with settings: name:key=value."
)
RATES = flags.DEFINE_list("rates", ["0.85", "0.9", "0.93", "0.95"], "Goals of attacks.")
NUM_CLIPS = flags.DEFINE_integer("num_attack_clips", 1000, "At most.")
OUTPUT = flags.DEFINE_string("output", None, "Folder of points.jsonl.", required=True)

BLOCK_SIZE = 25


def main() -> int:
    path = Path(OUTPUT.value) / "points.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    done = {key_of(entry) for entry in files.read_lines(path)}
    environment.cache_compilations(default_cache_dir() / "compiled")
    config = config_of("penalty", VICTIM_SEED.value)
    loaded = corpus.load_corpus(
        config, cache_dir=default_cache_dir(), strict=False, console=Console()
    )
    dataset, splits = loaded
    classifier, facts, _ = victim.prepare(
        config, loaded, cache_dir=default_cache_dir(), console=Console()
    )
    clips = to_waveform(dataset.clips[splits.test])
    test, _ = to_box(jnp.asarray(clips), scaling=SCALING.value)
    names = list(dataset.class_names)
    for seed in map(int, SEEDS.value):
        config = config_of("penalty", seed)
        x, labels = corpus.attack_clips(config, corpus.choose_clips(config, loaded))
        for goal in goals_of(names):
            for variant in VARIANTS.value:
                entry: dict[str, Any] = {
                    "variant": variant,
                    "goal": goal,
                    "seed": seed,
                    "model": facts["name"],
                    "num_attack_clips": len(labels),
                    "rates": RATES.value,
                }
                if key_of(entry) in done:
                    continue
                started = time.perf_counter()
                found, progress = craft(
                    variant,
                    classifier.logits,
                    classifier.variables,
                    x,
                    labels,
                    key=jax.random.split(jax.random.key(seed))[0],
                    target=None if goal == "untargeted" else names.index(goal),
                )
                entry["seconds"] = time.perf_counter() - started
                entry["progress"] = progress
                entry["points"] = [
                    point
                    | evaluated(
                        classifier.logits,
                        classifier.variables,
                        test,
                        perturbation,
                        target=None if goal == "untargeted" else names.index(goal),
                    )
                    for point, perturbation in found
                ]
                entry["hardware"] = environment.hardware()
                entry["versions"] = environment.versions()
                with path.open("a") as file:
                    file.write(json.dumps(entry) + "\n")
                shown = [
                    f"{p['train_asr']:.3f}/{p['test_asr']:.3f} {p['snr_ac_db']:.1f} dB"
                    for p in entry["points"]
                ]
                text = f"{seed} {goal} {variant}: {', '.join(shown)}"
                print(f"{text}; {entry['seconds']:.0f} s", flush=True)
    return 0


def key_of(entry: dict[str, Any]) -> tuple[Any, ...]:
    """Returns what tells runs apart."""
    same = ("variant", "goal", "seed", "model", "num_attack_clips")
    return (*(entry[name] for name in same), tuple(entry["rates"]))


def config_of(method: str, seed: int, *settings: str, targeted: bool = False) -> Any:
    """Returns the settings that `run` has for a method, with those of a variant."""
    return resolve(
        RunConfig(
            method=method,
            model=MODEL.value,
            dataset=DATASET.value,
            data_dir=DATA_DIR.value,
            scaling=SCALING.value,
            target="a class" if targeted else None,
            num_attack_clips=NUM_CLIPS.value,
            seed=seed,
            overrides=tuple(f"attack.{setting}" for setting in settings),
        )
    )


def goals_of(names: list[str]) -> list[str]:
    goals = (names if wanted == "each" else [wanted] for wanted in GOALS.value)
    return list(dict.fromkeys(itertools.chain.from_iterable(goals)))


def craft(
    variant: str,
    logits_fn: types.LogitsFn,
    variables: Any,
    x: jax.Array,
    labels: jax.Array,
    *,
    key: jax.Array,
    target: int | None,
) -> tuple[list[tuple[dict[str, Any], types.Perturbation]], list[dict[str, float]]]:
    """Returns a perturbation for each rate that was reached, and what each pass got.

    A variant is "penalty" or, say, "penalty:confidence=10:penalty_coefficient=0.05".
    """
    name, *settings = variant.split(":")
    config = config_of(name, 0, *settings, targeted=target is not None).attack
    rates = sorted(map(float, RATES.value))
    if name == "decoupled":
        config = dataclasses.replace(config, asr_levels=tuple(rates))
        rates = [min(rates, key=lambda rate: abs(rate - config.target_asr))]
    problem, state = attacks.begin(
        logits_fn, variables, x, labels, key=key, target=target, config=config
    )
    found = []
    for rate in rates:
        if name != "decoupled":
            goal = dataclasses.replace(problem.config, target_asr=jnp.float32(rate))
            problem = dataclasses.replace(problem, config=goal)
        count = num_passes_of(state)
        reached = count > 0 and last_asr(state) >= rate
        # A state after its last pass would run past the end of its history.
        if not reached and count == problem.config.total_passes:
            break
        if not reached:
            running = jnp.zeros_like(state.stop_reason)
            state = dataclasses.replace(state, stop_reason=running)
            while attacks.is_running(state):
                state = attacks.advance(logits_fn, variables, problem, state)
        result = attacks.result(state)
        passes_done = {"num_passes": int(result.num_passes)}
        if result.front is not None:
            for level, value, norm, asr in zip(
                result.front.asr_levels,
                result.front.values,
                result.front.norm,
                result.front.train_asr,
                strict=True,
            ):
                if np.isfinite(norm):
                    perturbation = dataclasses.replace(result.perturbation, value=value)
                    point = {"rate": float(level), "train_asr": float(asr)}
                    found.append((point | passes_done, perturbation))
        else:
            point = {"rate": rate, "train_asr": float(result.train_asr)}
            found.append((point | passes_done, result.perturbation))
            if not bool(result.converged):
                break
    count = num_passes_of(state)
    columns = {key: np.asarray(value)[:count] for key, value in state.history.items()}
    kept = [name for name in ("asr", "spl_db", "norm") if name in columns]
    progress = [
        {name: round(float(columns[name][i]), 4) for name in kept} for i in range(count)
    ]
    return found, progress


def num_passes_of(state: Any) -> int:
    return int(state.num_passes)


def last_asr(state: Any) -> float:
    return float(state.history["asr"][int(state.num_passes) - 1])


def evaluated(
    logits_fn: types.LogitsFn,
    variables: Any,
    x: jax.Array,
    perturbation: types.Perturbation,
    *,
    target: int | None,
) -> dict[str, float]:
    """Returns success rate and mean levels on test clips."""
    x_adversarial = attacks.apply_perturbation(perturbation, x)
    clean = all_logits(logits_fn, variables, x, BLOCK_SIZE)
    logits = all_logits(logits_fn, variables, x_adversarial, BLOCK_SIZE)
    predictions = jnp.argmax(clean, axis=1).astype(jnp.int32)
    target_class = None if target is None else jnp.int32(target)
    success = is_success(logits, predictions, target_class)
    delta = x_adversarial - x
    found = {"test_asr": float(jnp.mean(success))}
    for name, measure in (("snr_db", levels.snr_db), ("snr_ac_db", levels.snr_ac_db)):
        values = np.asarray(measure(x, delta), np.float64)
        found[name] = float(np.mean(values[np.isfinite(values)]))
    return found


if __name__ == "__main__":
    run_app(main)
