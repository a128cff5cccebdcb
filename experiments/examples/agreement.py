"""How far the ways to one network agree, and the tables of it."""

import datetime
import importlib.metadata
import json
import os
import statistics
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
from absl import logging

from uap_jax import attacks
from uap_jax.audio.levels import snr_ac_db, snr_db
from uap_jax.environment import hardware, versions
from uap_jax.evaluation import attack_success_rate

BLOCK_SIZE = 100


class Route(NamedTuple):
    """One way to the network, as attacks take it."""

    logits: attacks.LogitsFn
    variables: Any


Routes = dict[str, Route]


def logits_of(route: Route, x: jax.Array) -> np.ndarray:
    """`[M, N]` in the box to `[M, C]`, block by block."""
    blocks = [
        np.asarray(route.logits(route.variables, x[start : start + BLOCK_SIZE]))
        for start in range(0, len(x), BLOCK_SIZE)
    ]
    return np.concatenate(blocks)


def of_clean_clips(
    routes: Routes, x: jax.Array, labels: jax.Array
) -> dict[str, dict[str, float]]:
    """Compares the logits of clean clips with those of the first route."""
    logits = {name: logits_of(route, x) for name, route in routes.items()}
    expected = logits[next(iter(routes))]
    return {
        name: {
            "accuracy": float(np.mean(np.argmax(found, axis=1) == labels)),
            "largest_logit": float(np.max(np.abs(found))),
            "max_difference": largest_difference(found, expected),
        }
        for name, found in logits.items()
    }


def of_attack(
    routes: Routes,
    found: dict[str, attacks.AttackResult],
    x: jax.Array,
    *,
    target: int,
) -> dict[str, dict[str, Any]]:
    """Compares what attacks found with what the attack on the first route found.

    Args:
        routes: The ways to the network; the first is what others are compared with.
        found: By route.
        x: `[M, N]` test clips in the box.
        target: The class to say.

    Returns:
        By route: the attack's success, and largest differences of logits of the
        perturbed test clips: under its own perturbation, and with one perturbation,
        that of the first route, for all.
    """
    first = next(iter(routes))
    common = attacks.apply_perturbation(found[first].perturbation, x)
    expected = logits_of(routes[first], common)
    expected_value = np.asarray(found[first].perturbation.value)
    expected_asr = success_rate(expected, target)
    compared = {}
    for name, route in routes.items():
        perturbation = found[name].perturbation
        x_adv = attacks.apply_perturbation(perturbation, x)
        own = logits_of(route, x_adv)
        same = logits_of(route, common)
        audible = np.max(x, axis=1) > np.min(x, axis=1)
        compared[name] = {
            "stop_reason": attacks.STOP_REASONS[int(found[name].stop_reason)],
            "num_passes": int(found[name].num_passes),
            "train_asr": float(found[name].train_asr),
            "test_asr": success_rate(own, target),
            "test_asr_difference": success_rate(own, target) - expected_asr,
            "snr_db": float(np.mean(snr_db(x, x_adv - x)[audible])),
            "snr_ac_db": float(np.mean(snr_ac_db(x, x_adv - x)[audible])),
            "max_difference_own": largest_difference(own, expected),
            "max_difference_same": largest_difference(same, expected),
            "test_asr_same": success_rate(same, target),
            "perturbation_difference": largest_difference(
                np.asarray(perturbation.value), expected_value
            )
            / float(np.max(np.abs(expected_value))),
        }
    return compared


def success_rate(logits: np.ndarray, target: int) -> float:
    predictions = np.argmax(logits, axis=1)
    # A targeted success does not depend on the clean predictions.
    return attack_success_rate(predictions, predictions, target=target)


def largest_difference(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.max(np.abs(found - expected)))


def machine() -> dict[str, Any]:
    """Facts about this run; warns if the machine does other work."""
    load = os.getloadavg()[0]
    if load > 0.3:
        logging.warning("the machine is not idle: load average %.2f", load)
    found = versions()
    for name in ("torch", "onnx", "onnx2torch"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.date.today().isoformat(),
        **hardware(),
        "torch_threads": torch.get_num_threads(),
        "load_average_before": load,
        "versions": found,
    }


def write(results: dict[str, Any], output: str | None) -> None:
    """Prints the tables, and writes OUTPUT.json and OUTPUT.md if there is an OUTPUT."""
    table = as_markdown(results)
    print(table)
    if output is not None:
        path = Path(output)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".json").write_text(json.dumps(results, indent=2) + "\n")
        path.with_suffix(".md").write_text(table)


def as_markdown(results: dict[str, Any]) -> str:
    settings, machine = results["settings"], results["machine"]
    clean = results["clean"]
    accuracy = next(iter(clean.values()))["accuracy"]
    lines = [
        "# A PyTorch keyword classifier, attacked through the bridges and in JAX",
        "",
        f"Accuracy on test clips of unseen speakers: {accuracy:.3f}. Target "
        f"`{settings['target']}`, scaling `fixed`, seed {settings['seed']}. "
        "Differences: the largest of logits of test clips, against `jax`.",
        "",
        "| clean clips | accuracy | largest logit | difference |",
        "| --- | --- | --- | --- |",
        *(
            f"| {name} | {row['accuracy']:.3f} | {row['largest_logit']:.1f} | "
            f"{row['max_difference']:.1e} |"
            for name, row in clean.items()
        ),
    ]
    for attack, num_clips in results["num_clips"].items():
        lines += [
            "",
            f"| {attack}, {num_clips} clips | passes | training ASR | test ASR | SNR, "
            "mean-free SNR (dB) | difference, same perturbation | difference, own | "
            "seconds, of them compiling |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
            *(
                f"| {name} | {row['num_passes']}, {row['stop_reason']} | "
                f"{row['train_asr']:.3f} | {row['test_asr']:.3f} | "
                f"{row['snr_db']:.1f}, {row['snr_ac_db']:.1f} | "
                f"{row['max_difference_same']:.1e} | {row['max_difference_own']:.1e} | "
                f"{row['total_s']:.1f}, {row['compile_s']:.1f} |"
                for name, row in results[attack].items()
            ),
        ]
    seconds = results["seconds_in_turns"]
    loops = [values for name, values in seconds.items() if name.startswith("plain")]
    best = min(loops, key=statistics.median)
    lines += [
        "",
        "| penalty, all compiled before | seconds, median | times the faster plain "
        "loop, median, least, most |",
        "| --- | --- | --- |",
    ]
    for name, values in seconds.items():
        ratios = [a / b for a, b in zip(values, best, strict=True)]
        lines.append(
            f"| {name} | {statistics.median(values):.2f} | "
            f"{statistics.median(ratios):.2f}, {min(ratios):.2f}, {max(ratios):.2f} |"
        )
    found = ", ".join(f"{name} {v}" for name, v in machine["versions"].items())
    lines += [
        "",
        f"- {machine['processor']}, {machine['num_cores']} cores, "
        f"{machine['torch_threads']} PyTorch threads; load average before: "
        f"{machine['load_average_before']:.2f}.",
        f"- {found}; {machine['date']}.",
    ]
    return "\n".join(lines) + "\n"
