"""A perturbation evaluated on test clips: of a run, or a stored one once more."""

import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from uap_jax import checkpoints, environment, files
from uap_jax.attacks import Perturbation
from uap_jax.console import Console
from uap_jax.data.rooms import Rooms
from uap_jax.errors import UsageError, user_mistakes
from uap_jax.evaluation import (
    Evaluation,
    describe_controls,
    describe_detection,
    evaluate_perturbation,
    explain_success,
    left_out_clips,
    non_finite_logits,
    select,
    summarize,
)
from uap_jax.models.detectors import detected
from uap_jax.runs import store, victim
from uap_jax.runs.channels.settings import (
    num_sound_samples,
    placed,
    placed_perturbation,
    rooms_of,
)
from uap_jax.runs.channels.table import (
    evaluate_any_moment,
    evaluate_table,
    say_table,
)
from uap_jax.runs.config import RunConfig
from uap_jax.runs.corpus import (
    Clips,
    choose_clips,
    load_corpus,
    sound_gain,
)
from uap_jax.runs.same_weights import difference_from
from uap_jax.runs.victim import Victim
from uap_jax.text import format_decibel, format_seconds


class Evaluator(NamedTuple):
    """What perturbations are evaluated with: `key` is of controls and shifts."""

    config: RunConfig
    clips: Clips
    victim: Victim
    gain: float  # of the sound, see `corpus.sound_gain`
    key: jax.Array
    console: Console
    bank: Rooms | None = None

    def __call__(
        self, perturbation: Perturbation, sound: np.ndarray
    ) -> tuple[Evaluation, dict[str, Any]]:
        """Returns the values of every test clip, and their summary for result.json.

        Args:
            perturbation: What is added in the box, `[P]`.
            sound: `[P]` the same as one waveform.
        """
        classifier = self.victim.classifier
        perturbation = placed_perturbation(perturbation, self.config)
        evaluation = evaluate_perturbation(
            classifier.logits,
            classifier.variables,
            self.clips.dataset,
            self.clips.test,
            perturbation,
            scaling=self.config.scaling,
            sound=placed(sound, self.config),
            gain=self.gain,
            key=self.key,
            progress=self.console.progress,
        )
        detects = detected(self.clips.dataset.class_names)
        summary = summarize(evaluation, target=self.clips.target, detects=detects)
        summary["test"]["waveform_gain"] = self.gain
        return evaluation, summary

    def table(self, perturbation: Perturbation) -> dict[str, Any] | None:
        """Returns the values after channels, see `channels.evaluate_table`."""
        return evaluate_table(
            perturbation,
            config=self.config,
            classifier=self.victim.classifier,
            clips=self.clips,
            gain=self.gain,
            key=self.key,
            console=self.console,
            bank=self.bank,
        )

    def moments(self, perturbation: Perturbation) -> dict[str, Any]:
        """Returns the values at offsets over the period, as the table's "moments"."""
        return evaluate_any_moment(
            perturbation,
            config=self.config,
            classifier=self.victim.classifier,
            clips=self.clips,
            key=self.key,
            console=self.console,
        )


def per_class(evaluation: Evaluation, clips: Clips) -> list[dict[str, Any]]:
    """Returns a row of numbers for each class that has test clips."""
    rows = []
    for index, name in enumerate(clips.dataset.class_names):
        chosen = evaluation.labels == index
        if not np.any(chosen):
            continue
        summary = summarize(
            select(evaluation, chosen),
            target=clips.target,
            detects=detected(clips.dataset.class_names),
        )
        test = summary["test"]
        rows.append(
            {
                "class_name": name,
                "num_clips": test.get("num_counted", test["num_clips"]),
                "clean_accuracy": summary["clean_accuracy"],
                "asr": test["asr"],
                "accuracy_perturbed": test["accuracy_perturbed"],
                "control_asr": summary["control"]["asr"],
                "same_spectrum_asr": summary["control"]["same_spectrum"]["asr"],
            }
        )
    return rows


def evaluate_stored(
    folder: Path,
    *,
    workdir: Path | None = None,
    cache_dir: Path,
    strict: bool = False,
    **changes: Any,
) -> dict[str, Any]:
    """Evaluates the perturbation of a finished run; returns evaluation.json's content.

    The model is trained first if it is not in the cache. Without changes "test" and
    "control" are those of the run.

    Args:
        folder: See `store.read_run`.
        workdir: Where evaluation.json goes; None: evaluations/<model> in the run's
            work directory, where <model> names a training.
        cache_dir: Where clips, models and compiled programs are cached.
        strict: Whether one bad recording is an error.
        **changes: See `store.config_of`. The seed is of the model's training, of
            controls and of shifts.

    Raises:
        UsageError: The settings or the files of the run cannot be used.
        OSError: A folder cannot be written.
    """
    console = Console()
    started = time.perf_counter()
    run = store.read_run(folder)
    config = store.config_of(run, **changes)
    with user_mistakes():
        perturbation = checkpoints.load_perturbation(run.workdir / store.PERTURBATION)
    _check_fit(perturbation, config)
    environment.cache_compilations(cache_dir / "compiled")
    corpus = load_corpus(
        config,
        cache_dir=cache_dir,
        strict=strict,
        console=console,
        target_flag="--perturbation: its target",
    )
    clips = choose_clips(config, corpus)
    bank = rooms_of(config, cache_dir=cache_dir, console=console)
    prepared = victim.prepare(config, corpus, cache_dir=cache_dir, console=console)
    if prepared.facts["name"] == run.result["victim"]["name"]:
        line = difference_from(run, config, prepared.classifier)
        if line and config.own_model is not None and not changes.get("model"):
            raise UsageError(
                f"--perturbation: expected {config.model} as it was attacked: {line}; "
                "evaluate --model=... evaluates on it"
            )
        if line:
            console.say(f"{config.model} is not as it was attacked: {line}")
    # As in a run, where the other key is the attack's.
    _, key = jax.random.split(jax.random.key(config.seed))
    gain = sound_gain(config, corpus)
    evaluate = Evaluator(config, clips, prepared, gain, key, console, bank)
    _, summary = evaluate(perturbation, store.read_sound(run))
    if summary["test"]["asr"] is None:
        raise UsageError(
            f'--perturbation: expected test clips that are not "{config.target}" for '
            f"{config.model} already, got none"
        )
    table = evaluate.table(perturbation)
    workdir = workdir or run.workdir / "evaluations" / prepared.facts["name"]
    workdir.mkdir(parents=True, exist_ok=True)
    evaluation = files.finite(
        {
            "perturbation": str(run.workdir),
            "model": config.model,
            "dataset": corpus.dataset.name,
            "data_dir": config.data_dir,
            "split": config.split,
            "group_pattern": config.group_pattern,
            "scaling": config.scaling,
            "target": config.target,
            "seed": config.seed,
            **summary,
            **({"channels": table} if table else {}),
            "victim": prepared.facts,
            "seconds": time.perf_counter() - started,
            "versions": environment.versions(),
            "hardware": environment.hardware(),
        }
    )
    files.write_json(workdir / "evaluation.json", evaluation)
    console.say(
        f"clean accuracy {evaluation['clean_accuracy']:.3f}; test ASR of the run "
        f"{run.result['test']['asr']:.3f}"
    )
    say_test(evaluation, console)
    say_table(table, console)
    console.say(f"time: {format_seconds(evaluation['seconds'])}")
    console.say(f"{workdir / 'evaluation.json'}")
    return evaluation


def say_result(result: dict[str, Any], workdir: Path, console: Console) -> None:
    """Says the result of a finished run.

    Raises:
        UsageError: The result is damaged.
    """
    try:
        console.say(
            f"clean accuracy {result['clean_accuracy']:.3f}; training ASR "
            f"{result['train']['asr']:.3f} after {result['num_passes']} passes"
            f"{'' if result['converged'] else ' (goal not reached)'}"
        )
        say_test(result, console)
        say_table(result.get("channels"), console)
        if line := left_out_clips(result):
            console.say(line)
        for entry in result.get("front", []):
            console.say(_describe_point(entry))
        seconds = ", ".join(
            f"{name} {format_seconds(value)}"
            for name, value in result["seconds"].items()
        )
        console.say(f"time: {seconds}")
        console.say(f"{workdir / 'report.html'}")
    except (KeyError, TypeError, ValueError, AttributeError):
        path = workdir / "result.json"
        raise UsageError(f"{path}: damaged; delete the file") from None


def say_test(result: dict[str, Any], console: Console) -> None:
    """Says the success on test clips; `result` as of `summarize`."""
    test, control = result["test"], result["control"]
    low, high = test["asr_ci95"]
    where = f"{test['num_clips']} clips"
    if (counted := test.get("num_counted")) is not None:
        goal = f'those not "{result["target"]}" without it'
        where = f"{counted} of {where}, {goal}"
        if result["target"] is None:
            where = f"{counted} clips, where any change counts"
    console.say(
        f"test ASR {test['asr']:.3f} [{low:.3f}, {high:.3f}] on {where}; at the same "
        f"RMS {describe_controls(control)}"
    )
    for line in describe_detection(result):
        console.say(line)
    if explanation := explain_success(test, control):
        console.say(explanation)
    console.say(
        f"SNR {format_decibel(test['snr_db'])} with the resting level, "
        f"{format_decibel(test['snr_ac_db'])} without; as one sound on raw recordings "
        f"{test['asr_waveform']:.3f}, shifted {test['asr_shifted']:.3f}"
    )
    if line := non_finite_logits(result):
        console.say(line)


def _describe_point(entry: dict[str, Any]) -> str:
    """Returns a line on one success rate of a front."""
    goal = f"quietest with training ASR {entry['asr_level']:g}"
    if "test" not in entry:
        return f"{goal}: not reached"
    test = entry["test"]
    return (
        f"{goal}: test ASR {test['asr']:.3f}, SNR {format_decibel(test['snr_db'])}, "
        f"{format_decibel(test['snr_ac_db'])} without the resting level; "
        f"{describe_controls(entry['control'])}"
    )


def _check_fit(perturbation: Perturbation, config: RunConfig) -> None:
    expected = (num_sound_samples(config), config.sample_rate_hz)
    actual = (len(perturbation.value), perturbation.sample_rate_hz)
    if actual != expected:
        raise UsageError(
            f"--perturbation: expected {expected[0]} samples at {expected[1]} Hz, as "
            f"{config.model} takes, got {actual[0]} at {actual[1]} Hz"
        )
