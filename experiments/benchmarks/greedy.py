"""Times the greedy attack against a plain loop and the toolbox ART, side by side.

The victim is a trained SpchCMD on real recordings: how long an attack takes to reach a
success rate depends on both. See the README beside this file.
"""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import harness
import jax
import jax.numpy as jnp
import numpy as np

from uap_jax import attacks
from uap_jax.attacks.batches import all_logits
from uap_jax.attacks.equations import is_success, perturb, project_linf
from uap_jax.audio.levels import snr_db
from uap_jax.console import Console
from uap_jax.files import default_cache_dir
from uap_jax.runs import corpus, victim
from uap_jax.runs.config import RunConfig
from uap_jax.runs.resolve import resolve

# ART's inner attacks by name and settings. All but DeepFool move by a fixed amount,
# whatever would be enough, which decides how soon the rate is reached and how loudly.
ART_SETTINGS: dict[str, tuple[str, harness.Results]] = {
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


def run(
    data_dir: Annotated[
        str | None,
        "The folder of the Speech Commands test set; None: the built-in corpus.",
    ] = None,
    num_clips: Annotated[int, "Attack clips."] = 200,
    batch_sizes: Annotated[Sequence[str], "Of the batched mode."] = ("8", "32"),
    limit_s: Annotated[int, "Seconds after which an attack of ART is stopped."] = 240,
    art_attacks: Annotated[Sequence[str], "Which of ART_SETTINGS to run."] = [
        *ART_SETTINGS
    ],
    num_repeats: Annotated[
        int, "Timings of a pass of ours and of the loop, in turns; 0: no loop."
    ] = 3,
) -> Iterator[harness.Results]:
    config = RunConfig(method="greedy", num_attack_clips=num_clips)
    if data_dir is not None:
        config = dataclasses.replace(
            config, dataset="speech_commands", data_dir=data_dir, scaling="peak"
        )
    yield from compare(
        *prepare_victim(config, default_cache_dir()),
        batch_sizes=[int(size) for size in batch_sizes],
        limit_s=limit_s,
        art_attacks=art_attacks,
        num_repeats=num_repeats,
    )


def compare(
    classifier: Any,
    x: jax.Array,
    labels: jax.Array,
    facts: harness.Results,
    *,
    batch_sizes: list[int],
    limit_s: float,
    art_attacks: Sequence[str],
    num_repeats: int,
    ddn_steps: int = CONFIG.ddn.num_steps,
) -> Iterator[harness.Results]:
    """Yields the comparison, after each attack what there is of it."""
    logits_fn, variables = classifier.logits, classifier.variables
    whole = attacks.GreedyConfig(ddn=attacks.DDNConfig(num_steps=ddn_steps))
    problem, state = attacks.begin(
        logits_fn, variables, x, labels, key=jax.random.key(0), config=whole
    )
    asr_of = success_rate(logits_fn, variables, problem)
    results = harness.begin("torch", "adversarial-robustness-toolbox") | {
        "settings": {
            "num_clips": len(labels),
            "target_asr": CONFIG.target_asr,
            "radius": 0.2,
            "limit_s": limit_s,
            "art": {name: ART_SETTINGS[name][1] for name in art_attacks},
        },
        "victim": facts,
        "uap_jax": {},
        "art": {},
        "left_out": {},
    }
    short = attacks.DDNConfig(num_steps=min(20, ddn_steps))
    configs = {
        "exact": whole,
        **{
            f"batch_size={n}": dataclasses.replace(whole, batch_size=n)
            for n in batch_sizes
        },
        f"exact, DDN of {short.num_steps} steps": dataclasses.replace(whole, ddn=short),
        **{
            f"batch_size={n}, DDN of {short.num_steps} steps": dataclasses.replace(
                whole, batch_size=n, ddn=short
            )
            for n in batch_sizes[:1]
        },
    }
    for name, config in configs.items():
        attack = functools.partial(
            attacks.greedy,
            *(logits_fn, variables, x, labels),
            key=jax.random.key(0),
            config=config,
        )
        first_s = harness.seconds_of(attack)
        seconds = harness.seconds_of(attack)
        result = attack()
        value = result.perturbation.value
        results["uap_jax"][name] = {
            "seconds": seconds,
            "compile_s": first_s - seconds,
            "num_passes": int(result.num_passes),
            "asr": asr_of(value),
            "snr_db": mean_snr_db(problem, value),
        }
        yield results
    if num_repeats:
        results["one_pass"] = compare_with_loop(
            classifier, problem, state, asr_of, num_repeats
        )
        yield results
    for name in art_attacks:
        art = harness.attempt(
            f"ART, {name}",
            functools.partial(run_art, name, classifier, problem, asr_of, limit_s),
            results["left_out"],
        )
        if art is not None:
            results["art"][name] = art
        yield results


def prepare_victim(
    config: RunConfig, cache_dir: Path
) -> tuple[Any, jax.Array, jax.Array, harness.Results]:
    """Returns a trained classifier, clips to attack, their labels, and its facts."""
    config = resolve(config)
    console = Console()
    loaded = corpus.load_corpus(
        config, cache_dir=cache_dir, strict=False, console=console
    )
    classifier, facts, _ = victim.prepare(
        config, loaded, cache_dir=cache_dir, console=console
    )
    x, labels = corpus.attack_clips(config, corpus.choose_clips(config, loaded))
    return classifier, x, labels, facts


def success_rate(
    logits_fn: Any, variables: Any, problem: Any
) -> Callable[[Any], float]:
    """Returns a function from v to the share of clips that it fools."""
    num_clips = problem.x.shape[0]

    @jax.jit
    def count(value: jax.Array) -> jax.Array:
        x = perturb(problem.x, value, space="signal")
        logits = all_logits(logits_fn, variables, x, min(25, num_clips))
        return jnp.sum(is_success(logits, problem.clean_predictions, None))

    return lambda value: int(count(jnp.asarray(value))) / num_clips


def mean_snr_db(problem: Any, value: jax.Array) -> float:
    """Returns the paper's SNR of v, averaged over the clips."""
    x = problem.x
    delta = perturb(x, value, space="signal") - x
    return float(jnp.mean(snr_db(x, delta)))


def compare_with_loop(
    classifier: Any, problem: Any, state: Any, asr_of: Any, num_repeats: int
) -> harness.Results:
    """Times the first pass and its success rate, compiled and as a loop over clips.

    The floor of a pass is the time of its DDNs alone, one after the other.
    """
    logits_fn, variables = classifier.logits, classifier.variables
    ddn_config = problem.config.ddn
    forward = jax.jit(logits_fn)

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
                found = attacks.ddn(logits_fn, variables, x, classes, config=ddn_config)
                value = move(value, found.delta)
                visited.append(index)
        asr_of(value)
        return value, visited

    def compiled() -> Any:
        return attacks.advance(logits_fn, variables, problem, state)

    after, (value, visited) = compiled(), loop()
    first = visited[0]
    x, classes = problem.x[first][None], problem.clean_predictions[first][None]

    def one_ddn() -> jax.Array:
        return attacks.ddn(logits_fn, variables, x, classes, config=ddn_config).delta

    harness.wait_for(one_ddn())
    seconds = harness.in_turns({"compiled": compiled, "loop": loop}, num_repeats)
    seconds["ddn"] = [harness.timed_alone(one_ddn) for _ in range(20)]
    return {
        "seconds": seconds,
        "num_visited": int(after.history["visited"][0]),
        "num_visited_by_loop": len(visited),
        "max_difference_of_v": float(jnp.max(jnp.abs(after.own.value - value))),
    }


def run_art(
    name: str, classifier: Any, problem: Any, asr_of: Any, limit_s: float
) -> harness.Results:
    """Runs ART until it reaches the success rate or the time is over.

    The perturbation after each update is kept, and evaluated afterwards as ours is.
    """
    import torch
    from art.attacks.evasion import UniversalPerturbation
    from art.attacks.evasion import universal_perturbation as art_module
    from art.estimators.classification import PyTorchClassifier
    from twins import variants_of

    device = harness.torch_device()
    num_samples = classifier.num_samples
    variables = jax.device_get(classifier.variables)
    networks = variants_of("spchcmd", variables, num_samples=num_samples, device=device)
    attacked = PyTorchClassifier(
        model=networks["tuned"],
        loss=torch.nn.CrossEntropyLoss(),
        input_shape=(num_samples,),
        nb_classes=problem.clean_logits.shape[1],
        clip_values=(0.0, 1.0),
        device_type="gpu" if device.type == "cuda" else "cpu",
    )
    kept: list[tuple[float, np.ndarray]] = []
    project = art_module.projection

    def projection(values: np.ndarray, eps: float, norm_p: Any) -> np.ndarray:
        projected = project(values, eps, norm_p)
        seconds = time.perf_counter() - start
        kept.append((seconds, np.array(projected[0])))
        return projected

    predict = attacked.predict

    def predict_in_time(*arguments: Any, **settings: Any) -> np.ndarray:
        if time.perf_counter() - start > limit_s:
            raise OutOfTimeError
        return predict(*arguments, **settings)

    attacked.predict = predict_in_time

    attacker, settings = ART_SETTINGS[name]
    if attacker != "fgsm":
        settings = {**settings, "verbose": False}
    attack = UniversalPerturbation(
        attacked,
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
    rates = [(at, asr_of(value)) for at, value in kept]
    # Where no clip moved v, it is still silence, which has no SNR.
    rates = rates or [(seconds, 0.0)]
    reached = [
        index for index, (_, rate) in enumerate(rates) if rate >= CONFIG.target_asr
    ]
    best = reached[0] if reached else int(np.argmax([rate for _, rate in rates]))
    return {
        "seconds": seconds,
        "num_updates": len(kept),
        "asr": rates[best][1],
        "snr_db": mean_snr_db(problem, jnp.asarray(kept[best][1])) if kept else None,
        # Earlier than ART itself notices, which is at the end of a pass.
        "reached_s": rates[best][0] if reached else None,
        "updates_to_reach": best + 1,
        "curve": rates[:: max(1, len(rates) // 50)],
    }


def as_markdown(results: harness.Results) -> str:
    settings = results["settings"]
    goal = settings["target_asr"]
    rows = [
        f"| uap_jax, {name} | {run['seconds']:.1f} | {run['asr']:.3f} | "
        f"{run['snr_db']:.1f} | {run['num_passes']} passes |"
        for name, run in results["uap_jax"].items()
    ]
    for name, run in results["art"].items():
        reached = run["reached_s"]
        text = f"{reached:.1f}" if reached else f"not in {run['seconds']:.0f}"
        rows.append(
            f"| ART, {name} | {text} | {run['asr']:.3f} | {snr_text(run)} | "
            f"{run['updates_to_reach']} updates |"
        )
    lines = [
        f"# Greedy attack on SpchCMD, {settings['num_clips']} clips, untargeted",
        "",
        f"| | seconds to a training ASR of {goal} | ASR then | SNR then (dB) | |",
        "| --- | --- | --- | --- | --- |",
        *rows,
        "",
        *(first_pass_lines(results["one_pass"]) if "one_pass" in results else []),
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


def snr_text(attack: harness.Results) -> str:
    return "" if attack["snr_db"] is None else f"{attack['snr_db']:.1f}"


def first_pass_lines(one_pass: harness.Results) -> list[str]:
    seconds = one_pass["seconds"]
    compiled, loop, ddn = (statistics.median(values) for values in seconds.values())
    ratios = harness.ratios(seconds["loop"], seconds["compiled"])
    return [
        "First pass alone:",
        "",
        "| | median seconds |",
        "| --- | --- |",
        f"| compiled | {compiled:.2f} |",
        f"| loop over clips, jitted forward and jitted DDN | {loop:.2f} |",
        f"| floor: its {one_pass['num_visited']} DDNs alone | "
        f"{one_pass['num_visited'] * ddn:.2f} |",
        "",
        f"- Loop / compiled, turn by turn: median {statistics.median(ratios):.2f}, "
        f"from {min(ratios):.2f} to {max(ratios):.2f}; the loop visits "
        f"{one_pass['num_visited_by_loop']} clips, v differs by at most "
        f"{one_pass['max_difference_of_v']:.1e}.",
    ]


def compile_times(results: harness.Results) -> str:
    return ", ".join(
        f"{name} {run['compile_s']:.1f} s" for name, run in results["uap_jax"].items()
    )


if __name__ == "__main__":
    harness.launch(run, as_markdown)
