"""Crafts perturbations with every method at several success rates, and judges them.

    python experiments/results/quietest/compare.py --dataset=speech_commands \\
        --data_dir=FOLDER --model=spchcmd --scaling=peak --seeds=0,1,2

All methods have the same victim (that of --victim_seed), attack clips and seeds. The
paper's methods go on from where they reached one success rate to the next, which is
what a run with the higher rate does. Each run leaves a line in points.jsonl, and is not
done again where it is. What the lines say together: `tables.py` beside this file.
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

from uap_jax import attacks, files
from uap_jax.attacks import passes, types
from uap_jax.attacks.methods import METHODS
from uap_jax.audio import levels
from uap_jax.audio.box import to_box
from uap_jax.console import Console, run_app
from uap_jax.data import corpora
from uap_jax.data.dataset import split_clips, to_waveform
from uap_jax.files import default_cache_dir
from uap_jax.runs import config, environment, judge, victim

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
    dataset = corpora.load(
        DATASET.value,
        data_dir=Path(DATA_DIR.value),
        cache_dir=default_cache_dir() / "corpora",
        **sizes(settings_of("penalty", 0)),
    )
    splits = split_clips(dataset)
    classifier, facts = victim.prepare(
        settings_of("penalty", VICTIM_SEED.value),
        dataset,
        splits,
        cache_dir=default_cache_dir(),
        console=Console(),
    )
    clips = to_waveform(dataset.clips[splits.test])
    test, _ = to_box(jnp.asarray(clips), scaling=SCALING.value)
    names = list(dataset.class_names)
    for seed in map(int, SEEDS.value):
        settings = settings_of("penalty", seed)
        x, labels = judge.attack_clips(settings, dataset, splits)
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
                    | judged(
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


def settings_of(method: str, seed: int) -> config.RunConfig:
    """Returns the settings that `run` has for a method, without a variant's own."""
    return config.resolve(
        method=method,
        model=MODEL.value,
        dataset=DATASET.value,
        data_dir=DATA_DIR.value,
        split=None,
        scaling=SCALING.value,
        target=None,
        num_attack_clips=NUM_CLIPS.value,
        seed=seed,
        preset="default",
        overrides=(),
        on_accelerator=jax.default_backend() != "cpu",
    )


def sizes(settings: config.RunConfig) -> dict[str, int]:
    return {
        "sample_rate_hz": settings.sample_rate_hz,
        "num_samples": settings.num_samples,
    }


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
    name, *overrides = variant.split(":")
    method = METHODS[name]
    settings = config.resolve(
        **{
            "method": name,
            "model": MODEL.value,
            "dataset": DATASET.value,
            "data_dir": DATA_DIR.value,
            "split": None,
            "scaling": SCALING.value,
            "target": None if target is None else "a class",
            "num_attack_clips": NUM_CLIPS.value,
            "seed": 0,
            "preset": "default",
            "overrides": tuple(f"attack.{override}" for override in overrides),
            "on_accelerator": jax.default_backend() != "cpu",
        }
    ).attack
    rates = sorted(map(float, RATES.value))
    if name == "decoupled":
        settings = dataclasses.replace(settings, asr_levels=tuple(rates))
        rates = [min(rates, key=lambda rate: abs(rate - settings.target_asr))]
    problem, state = method.init(
        logits_fn, variables, x, labels, key=key, target=target, config=settings
    )
    found = []
    for rate in rates:
        goal = dataclasses.replace(settings, target_asr=rate)
        if name != "decoupled":
            settings = goal
        count = num_passes_of(state)
        reached = count > 0 and last_asr(state) >= rate
        # A state after its last pass would run past the end of its history.
        if not reached and count == settings.max_passes:
            break
        if not reached:
            state = state._replace(stop_reason=jnp.zeros_like(state.stop_reason))
            while int(state.stop_reason) == types.RUNNING:
                state = method.segment(
                    logits_fn, variables, problem, state, config=settings
                )
        result = method.result(state)
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


def judged(
    logits_fn: types.LogitsFn,
    variables: Any,
    x: jax.Array,
    perturbation: types.Perturbation,
    *,
    target: int | None,
) -> dict[str, float]:
    """Returns success rate and mean levels on test clips."""
    x_adversarial = attacks.apply_perturbation(perturbation, x)
    clean = passes.predict(logits_fn, variables, x, BLOCK_SIZE)
    now = passes.predict(logits_fn, variables, x_adversarial, BLOCK_SIZE)
    success = now != clean if target is None else now == target
    delta = x_adversarial - x
    found = {"test_asr": float(jnp.mean(success))}
    for name, measure in (("snr_db", levels.snr_db), ("snr_ac_db", levels.snr_ac_db)):
        values = np.asarray(measure(x, delta), np.float64)
        found[name] = float(np.mean(values[np.isfinite(values)]))
    return found


if __name__ == "__main__":
    run_app(main)
