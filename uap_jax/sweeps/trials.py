"""The work of a sweep: attacks, and judgements of attacks on other models.

Each piece leaves a file when it is whole, so what is done is seen from the files, and
a new start, a crash and a change of the manifest are one case.
"""

import contextlib
import dataclasses
import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from uap_jax import files
from uap_jax.errors import UsageError
from uap_jax.files import fingerprint
from uap_jax.models.registry import default_num_samples
from uap_jax.sweeps.plan import Trial

_WHOLE_RESULT = (
    *("dataset", "clean_accuracy", "converged", "stop_reason", "num_passes", "train"),
    *("test", "control", "versions", "hardware"),
)
_WHOLE_TRANSFER = ("test", "control", "clean_accuracy")
_GOOD_ENDS = ("converged", "max_passes", "stalled")


@dataclasses.dataclass(frozen=True)
class Transfer:
    """A judgement of one trial's perturbation on the model of another trial."""

    source: Trial
    victim: Trial

    @property
    def id(self) -> str:
        """A hash of what its result depends on."""
        keys = ("model", "dataset", "split", "scaling", "seed", "training")
        return fingerprint(self.source.id, [self.victim.config[key] for key in keys])

    @property
    def label(self) -> str:
        """What it is, for people."""
        return f"{self.source.label} on {self.victim.config['model']}"

    def folder(self, workdir: Path) -> Path:
        """Returns the folder of its result."""
        return workdir / "transfer" / self.id


Job = Trial | Transfer


def transfers(trials: Sequence[Trial]) -> list[Transfer]:
    """Returns each trial on each other model of the manifest that takes its clips.

    The models are those of trials with the same corpus, seed and training overrides;
    how those trials attack does not matter. The perturbations that one model is to
    judge follow each other.
    """
    alike: dict[str, list[Trial]] = {}
    for trial in trials:
        alike.setdefault(_setting_of_victim(trial), []).append(trial)
    pairs = []
    for group in alike.values():
        # Each model once, whichever trial it is named by; the first, to be definite.
        victims = {trial.config["model"]: trial for trial in reversed(group)}
        pairs += [
            Transfer(source, victim)
            for source, victim in itertools.product(group, victims.values())
            if source.config["model"] != victim.config["model"]
        ]
    order = list(dict.fromkeys(trial.config["model"] for trial in trials))
    return sorted(
        pairs,
        key=lambda pair: (
            order.index(pair.victim.config["model"]),
            pair.victim.config["seed"],
        ),
    )


def _setting_of_victim(trial: Trial) -> str:
    """Returns a hash of what trials share whose models can judge the same clips."""
    keys = ("dataset", "split", "scaling", "seed", "num_test_clips")
    return fingerprint(
        [trial.config.get(key) for key in keys],
        trial.request.get("data_dir"),
        default_num_samples(trial.config["model"]),
        [text for text in trial.request["overrides"] if not text.startswith("attack.")],
    )


def read_result(job: Job, workdir: Path) -> dict[str, Any] | None:
    """Returns the result of a piece of work, or None if it is not there or not whole.

    Only a machine that stops while it writes leaves half a file; such work is done
    again.
    """
    wanted = _WHOLE_RESULT if isinstance(job, Trial) else _WHOLE_TRANSFER
    with contextlib.suppress(UsageError):
        result = files.read_json(job.folder(workdir) / "result.json")
        if result is not None and all(key in result for key in wanted):
            return result
    return None


def fault_of(result: Mapping[str, Any]) -> str | None:
    """Returns why an attack ended that could not go on, or None."""
    reason = result.get("stop_reason", _GOOD_ENDS[0])
    if reason in _GOOD_ENDS:
        return None
    return (
        f"the attack stopped in pass {result['num_passes'] + 1}: "
        f"{reason.replace('_', ' ')}"
    )


def pending(jobs: Iterable[Job], workdir: Path) -> list[Job]:
    """Returns the work that is not done."""
    return [job for job in jobs if read_result(job, workdir) is None]


def kind_of(job: Job) -> str:
    """Returns what the time of a piece of work mostly depends on."""
    if isinstance(job, Trial):
        return f"{job.config['method']} {job.config['model']}"
    return f"on {job.victim.config['model']}"


def seconds_left(left: Iterable[Job], spent: Mapping[str, Sequence[float]]) -> float:
    """Estimates how long work takes from how long other work took.

    Args:
        left: What is to be done.
        spent: By kind, the seconds of each piece that is done; at least one.

    Returns:
        The sum of the means of each kind, or, where there is none, of all.
    """
    overall = statistics.fmean(itertools.chain(*spent.values()))
    return sum(
        statistics.fmean(spent[kind_of(job)]) if kind_of(job) in spent else overall
        for job in left
    )
