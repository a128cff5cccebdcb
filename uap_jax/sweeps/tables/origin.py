"""Where the numbers of a table are from."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from uap_jax.sweeps import corpora
from uap_jax.sweeps.tables.comparisons import Results
from uap_jax.sweeps.trials import Trial


def origin_of(
    trials: Sequence[Trial], results: Results, workdir: Path
) -> dict[str, Any]:
    """Returns where the numbers are from: corpora, seeds, models, machines."""
    done = [(trial, result) for trial in trials if (result := results[trial.id])]
    hardware = [result["hardware"] for _, result in done]
    versions = [result["versions"] for _, result in done]
    names = {trial.settings["dataset"] for trial in trials}
    # Of each model and seed; a model trained in several ways has several.
    accuracies: dict[str, dict[str, list[float]]] = {}
    for trial, result in done:
        settings, rate = trial.settings, result["clean_accuracy"]
        model = f"{settings['model']}, {settings['scaling']}"
        seeds = accuracies.setdefault(model, {})
        rates = seeds.setdefault(str(settings["seed"]), [])
        rates += [rate] if rate not in rates else []
    return {
        "num_done": len(done),
        "num_trials": len(trials),
        "missing": [trial.label for trial in trials if not results[trial.id]],
        "trials": [trial.id for trial in trials],
        "labels": [trial.label for trial in trials],
        "corpora": _distinct(
            f"{result['dataset']}, {trial.settings['scaling']}, "
            f"{result['test']['num_clips']} test clips"
            for trial, result in done
        ),
        "fingerprints": {
            key: entry["fingerprint"]
            for key, entry in corpora.read(workdir).items()
            if key.rsplit("-", 2)[0] in names
        },
        "seeds": sorted({trial.settings["seed"] for trial in trials}),
        "clean_accuracy": {
            model: {
                f"{seed} (training {index})" if len(rates) > 1 else seed: rate
                for seed, rates in seeds.items()
                for index, rate in enumerate(rates, 1)
            }
            for model, seeds in accuracies.items()
        },
        "hardware": _distinct(
            f"{m['num_devices']} x {m['device']}, {m['processor']}, "
            f"{m['num_cores']} cores"
            for m in hardware
        ),
        "versions": _distinct(
            f"uap_jax {each['uap_jax']}, jax {each['jax']}" for each in versions
        ),
    }


def _distinct(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def describe(about: Mapping[str, Any]) -> Iterator[str]:
    """Yields lines on a table, as Markdown and LaTeX show them below it."""
    yield f"{about['num_done']} of {about['num_trials']} trials are done"
    missing = about["missing"]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        yield f"missing: {'; '.join(missing[:5])}{more}"
    yield f"scale {about['scale']}: `{about['command']}`"
    for key in ("corpora", "hardware", "versions"):
        if about[key]:
            yield f"{key}: {'; '.join(about[key])}"
    yield f"seeds: {', '.join(map(str, about['seeds']))}"
    if about["clean_accuracy"]:
        parts = [
            f"{model} {', '.join(f'{rate:.3f}' for rate in by_seed.values())}"
            for model, by_seed in about["clean_accuracy"].items()
        ]
        yield f"clean accuracy: {'; '.join(parts)}"
    yield from about["notes"]
