"""Times the greedy attack against a plain loop and the toolbox ART, on the same CPU.

The victim is a trained SpchCMD on real recordings: how long an attack takes to reach a
success rate depends on both. See the README beside this file.
"""

import functools
import statistics
import time
from typing import Any

import harness
import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch_twin
from absl import app, flags
from art.attacks.evasion import UniversalPerturbation
from art.attacks.evasion import universal_perturbation as art_module
from art.estimators.classification import PyTorchClassifier

from uap_jax import attacks
from uap_jax.attacks.batches import all_logits
from uap_jax.attacks.equations import is_success, perturb, project_linf
from uap_jax.audio.levels import snr_db
from uap_jax.console import Console
from uap_jax.files import default_cache_dir
from uap_jax.runs import corpus, victim
from uap_jax.runs.config import RunConfig
from uap_jax.runs.resolve import resolve

_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "The folder of the Speech Commands test set.", required=True
)
_NUM_CLIPS = flags.DEFINE_integer("num_clips", 200, "Attack clips.", lower_bound=1)
_BATCH_SIZES = flags.DEFINE_list("batch_sizes", "8,32", "Of the batched mode.")
_LIMIT_S = flags.DEFINE_integer(
    "limit_s", 240, "Seconds after which each of ART's attacks is stopped."
)
_ART_ATTACKS = flags.DEFINE_list(
    "art_attacks", None, "Which of ART_SETTINGS to run; None: all."
)
_NUM_REPEATS = flags.DEFINE_integer(
    "num_repeats", 3, "Timings of a pass of ours and of the loop, in turns."
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "Where to write the results, without .json and .md; None: nowhere."
)

# ART's inner attacks by name and settings. All but DeepFool move by a fixed amount,
# whatever would be enough, which decides how soon the rate is reached and how loudly.
ART_SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "fgsm, eps 0.02": ("fgsm", {"eps": 0.02, "batch_size": 1}),
    "fgsm, eps 0.005": ("fgsm", {"eps": 0.005, "batch_size": 1}),
    "fgsm, eps 0.002": ("fgsm", {"eps": 0.002, "batch_size": 1}),
    "pgd, eps 0.05": (
        "pgd",
        {"eps": 0.05, "eps_step": 0.01, "max_iter": 10, "batch_size": 1},
    ),
    "pgd, eps 0.005": (
        "pgd",
        {"eps": 0.005, "eps_step": 0.001, "max_iter": 10, "batch_size": 1},
    ),
    "pgd, eps 0.002": (
        "pgd",
        {"eps": 0.002, "eps_step": 0.0004, "max_iter": 10, "batch_size": 1},
    ),
    "deepfool": ("deepfool", {"max_iter": 50, "nb_grads": 12, "batch_size": 1}),
}
CONFIG = attacks.GreedyConfig()


class OutOfTimeError(Exception):
    """Stops an attack of ART."""


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"expected flags only, got {argv[1:]}")
    machine = harness.use_all_cores()
    spec, variables, x, labels, facts = prepare_victim()
    problem, state = attacks.begin(
        spec.logits, variables, x, labels, key=jax.random.key(0), config=CONFIG
    )
    asr_of = success_rate(spec, variables, problem)

    runs = {"uap_jax, exact": functools.partial(whole_attack, spec, variables, x)}
    for size in _BATCH_SIZES.value:
        config = attacks.GreedyConfig(batch_size=int(size))
        runs[f"uap_jax, batch_size={size}"] = functools.partial(
            whole_attack, spec, variables, x, config=config
        )
    short = attacks.DDNConfig(num_steps=20)
    for name, size in (("exact", 1), ("batch_size=8", 8)):
        config = attacks.GreedyConfig(batch_size=size, ddn=short)
        runs[f"uap_jax, {name}, DDN of 20 steps"] = functools.partial(
            whole_attack, spec, variables, x, config=config
        )
    ours = {}
    for name, run in runs.items():
        first = timed(run, labels)
        seconds, result = timed(run, labels)
        ours[name] = {
            "seconds": seconds,
            "compile_s": first[0] - seconds,
            "num_passes": int(result.num_passes),
            "asr": asr_of(result.perturbation.value),
            "snr_db": mean_snr_db(problem, result.perturbation.value),
        }
    one_pass = compare_with_loop(spec, variables, problem, state, asr_of)
    art = {
        name: run_art(name, spec, variables, problem, asr_of)
        for name in _ART_ATTACKS.value or ART_SETTINGS
    }
    packages = ("jax", "flax", "torch", "adversarial-robustness-toolbox")
    results = {
        "date": harness.today(),
        "machine": machine,
        "versions": harness.versions_of(packages),
        "settings": {
            "num_clips": len(labels),
            "target_asr": CONFIG.target_asr,
            "radius": 0.2,
            "limit_s": _LIMIT_S.value,
            "art": {name: ART_SETTINGS[name][1] for name in art},
        },
        "victim": facts,
        "uap_jax": ours,
        "one_pass": one_pass,
        "art": art,
    }
    harness.write_results(results, as_markdown(results), _OUTPUT.value)


def prepare_victim() -> tuple[Any, Any, jax.Array, jax.Array, dict[str, Any]]:
    """Returns SpchCMD as the recorded runs have it, and clips to attack."""
    config = resolve(
        RunConfig(
            method="greedy",
            dataset="speech_commands",
            data_dir=_DATA_DIR.value,
            scaling="peak",
            num_attack_clips=_NUM_CLIPS.value,
        ),
        on_accelerator=False,
    )
    console, cache_dir = Console(), default_cache_dir()
    loaded = corpus.load_corpus(
        config, cache_dir=cache_dir, strict=False, console=console
    )
    classifier, facts, _ = victim.prepare(
        config, loaded, cache_dir=cache_dir, console=console
    )
    x, labels = corpus.attack_clips(config, corpus.choose_clips(config, loaded))
    return classifier, classifier.variables, x, labels, facts


def success_rate(spec: Any, variables: Any, problem: Any) -> Any:
    """Returns a function from v to the share of clips that it fools."""
    num_clips = problem.x.shape[0]

    @jax.jit
    def count(value: jax.Array) -> jax.Array:
        x = perturb(problem.x, value, space="signal")
        logits = all_logits(spec.logits, variables, x, 25)
        return jnp.sum(is_success(logits, problem.clean_predictions, None))

    return lambda value: int(count(value)) / num_clips


def mean_snr_db(problem: Any, value: jax.Array) -> float:
    """Returns the paper's SNR of v, averaged over the clips."""
    x = problem.x
    delta = perturb(x, value, space="signal") - x
    return float(jnp.mean(snr_db(x, delta)))


def whole_attack(
    spec: Any,
    variables: Any,
    x: jax.Array,
    labels: jax.Array,
    *,
    config: attacks.GreedyConfig = CONFIG,
) -> attacks.AttackResult:
    return jax.block_until_ready(
        attacks.greedy(
            spec.logits, variables, x, labels, key=jax.random.key(0), config=config
        )
    )


def timed(run: Any, *arguments: Any) -> tuple[float, Any]:
    time.sleep(harness.PAUSE_S)
    start = time.perf_counter()
    result = run(*arguments)
    return time.perf_counter() - start, result


def compare_with_loop(
    spec: Any, variables: Any, problem: Any, state: Any, asr_of: Any
) -> dict[str, Any]:
    """Times the first pass and its success rate, compiled and as a loop over clips.

    The floor of a pass is the time of its DDNs alone, one after the other.
    """
    forward = jax.jit(spec.logits)

    @jax.jit
    def look(value: jax.Array, index: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = perturb(problem.x[index][None], value, space="signal")
        clean = problem.clean_predictions[index][None]
        return x, is_success(forward(variables, x), clean, None)[0]

    @jax.jit
    def move(value: jax.Array, delta: jax.Array) -> jax.Array:
        return project_linf(value + delta[0], radius=0.2)

    def loop() -> tuple[jax.Array, list[int]]:
        value, visited = state.own.value, []
        for index in range(problem.x.shape[0]):
            x, fooled = look(value, index)
            if not fooled:
                classes = problem.clean_predictions[index : index + 1]
                found = attacks.ddn(
                    spec.logits, variables, x, classes, config=CONFIG.ddn
                )
                value = move(value, found.delta)
                visited.append(index)
        asr_of(value)
        return value, visited

    def compiled() -> Any:
        return jax.block_until_ready(
            attacks.advance(spec.logits, variables, problem, state)
        )

    after, (value, visited) = compiled(), loop()
    seconds: dict[str, list[float]] = {"compiled": [], "loop": [], "ddn": []}
    first = visited[0]
    x, classes = problem.x[first][None], problem.clean_predictions[first][None]

    def one_ddn() -> None:
        found = attacks.ddn(spec.logits, variables, x, classes, config=CONFIG.ddn)
        jax.block_until_ready(found.delta)

    one_ddn()
    for _ in range(_NUM_REPEATS.value):
        seconds["compiled"].append(timed(compiled)[0])
        seconds["loop"].append(timed(loop)[0])
        seconds["ddn"].append(min(timed_alone(one_ddn) for _ in range(20)))
    return {
        "seconds": seconds,
        "num_visited": int(after.history["visited"][0]),
        "num_visited_by_loop": len(visited),
        "max_difference_of_v": float(jnp.max(jnp.abs(after.own.value - value))),
    }


def timed_alone(run: Any) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def run_art(
    name: str, spec: Any, variables: Any, problem: Any, asr_of: Any
) -> dict[str, Any]:
    """Runs ART until it reaches the success rate or the time is over.

    The perturbation after each update is kept, and evaluated afterwards as ours is.
    """
    twin = torch_twin.tuned(
        torch_twin.twin_of(jax.device_get(variables), num_samples=spec.num_samples)
    )
    classifier = PyTorchClassifier(
        model=twin,
        loss=torch.nn.CrossEntropyLoss(),
        input_shape=(spec.num_samples,),
        nb_classes=spec.num_classes,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    kept: list[tuple[float, np.ndarray]] = []
    project = art_module.projection

    def projection(values: np.ndarray, eps: float, norm_p: Any) -> np.ndarray:
        projected = project(values, eps, norm_p)
        seconds = time.perf_counter() - start
        kept.append((seconds, np.array(projected[0])))
        if seconds > _LIMIT_S.value:
            raise OutOfTimeError
        return projected

    attacker, settings = ART_SETTINGS[name]
    if attacker != "fgsm":
        settings = {**settings, "verbose": False}
    attack = UniversalPerturbation(
        classifier,
        attacker=attacker,
        attacker_params=settings,
        delta=1 - float(CONFIG.target_asr),
        eps=0.2,
        max_iter=100,
        verbose=False,
    )
    art_module.projection = projection
    start = time.perf_counter()
    try:
        attack.generate(np.asarray(problem.x))
    except OutOfTimeError:
        pass
    finally:
        art_module.projection = project
    seconds = time.perf_counter() - start
    rates = [(at, asr_of(jnp.asarray(value))) for at, value in kept]
    reached = [
        index for index, (_, rate) in enumerate(rates) if rate >= CONFIG.target_asr
    ]
    best = reached[0] if reached else int(np.argmax([rate for _, rate in rates]))
    return {
        "seconds": seconds,
        "num_updates": len(kept),
        "asr": rates[best][1],
        "snr_db": mean_snr_db(problem, jnp.asarray(kept[best][1])),
        # Earlier than ART itself notices, which is at the end of a pass.
        "reached_s": rates[best][0] if reached else None,
        "updates_to_reach": best + 1,
        "curve": rates[:: max(1, len(rates) // 50)],
    }


def as_markdown(results: dict[str, Any]) -> str:
    settings = results["settings"]
    goal = settings["target_asr"]
    rows = [
        f"| {name} | {run['seconds']:.1f} | {run['asr']:.3f} | {run['snr_db']:.1f} | "
        f"{run['num_passes']} passes |"
        for name, run in results["uap_jax"].items()
    ]
    for name, run in results["art"].items():
        reached = run["reached_s"]
        text = f"{reached:.1f}" if reached else f"not in {run['seconds']:.0f}"
        rows.append(
            f"| ART, {name} | {text} | {run['asr']:.3f} | {run['snr_db']:.1f} | "
            f"{run['updates_to_reach']} updates |"
        )
    one_pass = results["one_pass"]
    compiled, loop, ddn = (
        statistics.median(one_pass["seconds"][name])
        for name in ("compiled", "loop", "ddn")
    )
    ratios = [
        b / a
        for a, b in zip(
            one_pass["seconds"]["compiled"], one_pass["seconds"]["loop"], strict=True
        )
    ]
    floor = one_pass["num_visited"] * ddn
    lines = [
        f"# Greedy attack on SpchCMD, {settings['num_clips']} clips, untargeted",
        "",
        f"| | seconds to a training ASR of {goal} | ASR then | SNR then (dB) | |",
        "| --- | --- | --- | --- | --- |",
        *rows,
        "",
        "First pass alone:",
        "",
        "| | median seconds |",
        "| --- | --- |",
        f"| compiled | {compiled:.2f} |",
        f"| loop over clips, jitted forward and jitted DDN | {loop:.2f} |",
        f"| floor: its {one_pass['num_visited']} DDNs alone | {floor:.2f} |",
        "",
        f"- Loop / compiled, turn by turn: median {statistics.median(ratios):.2f}, "
        f"from {min(ratios):.2f} to {max(ratios):.2f}; the loop visits "
        f"{one_pass['num_visited_by_loop']} clips, v differs by at most "
        f"{one_pass['max_difference_of_v']:.1e}.",
        f"- Compiling: {compile_times(results)}; not in the times above.",
        "- ART sees the PyTorch twin with folded norms and channels last; its time is "
        "that of the first update at which its v has the success rate; where it never "
        "has, ASR and SNR are of its best v. Settings are in the JSON file.",
        "- Read time and SNR together: an inner attack that moves by a fixed large "
        "amount is done soon, and loud.",
        f"- Victim: {results['victim']['name']}, validation accuracy "
        f"{results['victim']['validation_accuracy']:.3f}.",
        *harness.machine_lines(results),
    ]
    return "\n".join(lines) + "\n"


def compile_times(results: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {run['compile_s']:.1f} s" for name, run in results["uap_jax"].items()
    )


if __name__ == "__main__":
    app.run(main)
