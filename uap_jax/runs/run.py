"""One run, or a group of runs whose attacks share a program, from corpus to report."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from uap_jax import attacks, environment, files
from uap_jax.attacks import AttackResult, types
from uap_jax.attacks.methods import resolve_method
from uap_jax.bridges import custom_models
from uap_jax.console import Console, one_line
from uap_jax.reporting import ReportData, write_report
from uap_jax.runs import store, victim
from uap_jax.runs.attack import (
    Prepared,
    announce,
    check_problem,
    explain,
    fitting_width,
    open_trail,
)
from uap_jax.runs.channels.examples import arrivals_of
from uap_jax.runs.channels.settings import placed_perturbation, rooms_of, sound_of
from uap_jax.runs.channels.table import asks_for_table
from uap_jax.runs.config import RunConfig, as_json, command, resume_from
from uap_jax.runs.corpus import (
    Clips,
    attack_clips,
    choose_clips,
    load_corpus,
    sound_gain,
)
from uap_jax.runs.evaluate import Evaluator, per_class
from uap_jax.runs.fronts import evaluate_front, evaluate_front_moments
from uap_jax.runs.recordings.submission import write_submissions

LOG = "log.txt"
# Of the clips that were left out of steps.
MAX_NAMED = 5
Result = dict[str, Any]


def run(
    configs: Sequence[RunConfig],
    workdirs: Sequence[Path],
    *,
    cache_dir: Path,
    consoles: Sequence[Console],
    strict: bool = False,
    width: int | None = 1,
    wait: bool = False,
) -> list[Result | Exception]:
    """Carries out runs, or resumes them; each leaves its files in its work directory.

    Args:
        configs: Resolved; of several runs alike but for the target and the numbers of
            the attack.
        workdirs: One a run.
        cache_dir: Where clips, models and compiled programs are cached.
        consoles: One a run; its lines go to log.txt in the work directory too.
        strict: Whether one bad recording is an error.
        width: Attacks in one program; None: what fits the device's memory.
        wait: Whether to wait for another process that uses a work directory.

    Returns:
        For each run the content of result.json, or what went wrong.
    """
    outcomes: dict[int, Result | Exception] = {}
    groups: dict[Any, dict[int, Prepared]] = {}
    compiled_s = environment.compile_seconds()
    with contextlib.ExitStack() as held:
        for index, config in enumerate(configs):
            workdir, console = workdirs[index], consoles[index]
            try:
                held.enter_context(files.locked(workdir, wait=wait))
                ready = _prepare(config, workdir, cache_dir, strict, console)
                if isinstance(ready, Prepared):
                    # A resumed run keeps sizes that follow the machine it began on;
                    # attacks on a detector may have clips of their own.
                    sizes = jax.tree.structure(ready.config.attack)
                    alike = sizes, ready.clips.attack.tobytes()
                    groups.setdefault(alike, {})[index] = ready
                else:
                    outcomes[index] = ready
            except Exception as error:
                outcomes[index] = error
        for group in groups.values():
            results = _attack(group, width)
            shared_s = (environment.compile_seconds() - compiled_s) / len(group)
            for index, result in results.items():
                compiled_s = environment.compile_seconds() - shared_s
                try:
                    outcomes[index] = _finish(group[index], result, strict, compiled_s)
                except Exception as error:
                    outcomes[index] = error
            compiled_s = environment.compile_seconds()
    return [outcomes[index] for index in range(len(configs))]


def _prepare(
    config: RunConfig, workdir: Path, cache_dir: Path, strict: bool, console: Console
) -> Prepared | Result:
    """Loads what an attack needs and trains the model, or returns the old result."""
    result = files.read_json(workdir / "result.json")
    stored = files.read_json(workdir / "config.json")
    # Settings are fixed once work has begun; a mistyped class is no work.
    if stored is not None and (result or (workdir / "checkpoints").exists()):
        config = resume_from(config, stored)
    if result is not None:
        console.say("this run is finished; delete its folder to run it again")
        return result
    described = as_json(config) | {
        "command": command(config, workdir, cache_dir=cache_dir, strict=strict)
    }
    files.write_json(workdir / "config.json", described)
    console.log_to(workdir / LOG)
    environment.cache_compilations(cache_dir / "compiled")
    corpus = load_corpus(config, cache_dir=cache_dir, strict=strict, console=console)
    clips = choose_clips(config, corpus)
    gain = sound_gain(config, corpus)
    # Before a training, so that a mistake is met at once.
    bank = rooms_of(config, cache_dir=cache_dir, console=console)
    model = victim.prepare(config, corpus, cache_dir=cache_dir, console=console)
    clips = victim.clips_of_detector(config, corpus, clips, model, console)
    # After a training, which renders most of a built-in corpus.
    clips.dataset.ensure(np.concatenate([clips.attack, clips.test]))
    keys = jax.random.split(jax.random.key(config.seed))
    ready = Prepared(config, workdir, console, clips, model, gain, keys, bank)
    check_problem(ready)
    return ready


def _attack(
    group: Mapping[int, Prepared], width: int | None
) -> dict[int, AttackResult | Exception]:
    """Runs the attacks of a group together, and one at a time if that fails."""
    first = next(iter(group.values()))
    try:
        with custom_models.under_attack(first.config.model, first.victim.classifier):
            x, labels = attack_clips(first.config, first.clips)
            for ready in group.values():
                announce(ready)
            results = run_attacks(list(group.values()), x, labels, width)
    except Exception as error:
        if len(group) == 1:
            return dict.fromkeys(group, error)
        line = f"batching failed ({one_line(error)}); running one at a time"
        for ready in group.values():
            ready.console.fault(error)
        first.console.announce(f"{line} (log: {first.workdir / LOG})")
        alone = [_attack({index: ready}, 1) for index, ready in group.items()]
        return {index: result for part in alone for index, result in part.items()}
    return dict(zip(group, results, strict=True))


def run_attacks(
    runs: Sequence[Prepared], x: jax.Array, labels: jax.Array, width: int | None
) -> list[AttackResult]:
    """Runs or resumes attacks, segment by segment; writes checkpoints, metrics.jsonl.

    Each leaves the same files as alone, so that one can resume where several stopped,
    and the other way round. The seconds of a segment are shared among the attacks that
    advanced in it.
    """
    classifier, devices = runs[0].victim.classifier, jax.devices()
    logits_fn = classifier.logits
    if len(devices) > 1:
        logits_fn = attacks.over_devices(logits_fn, devices)
        for run in runs:
            run.console.say(f"each batch is spread over {len(devices)} devices")
    place = functools.partial(attacks.replicated, devices=devices)
    variables, x, labels, keys = place(
        (classifier.variables, x, labels, [run.keys[0] for run in runs])
    )
    targets = [t for run in runs if (t := run.clips.target) is not None]
    problems, states = place(
        attacks.begin_together(
            logits_fn,
            variables,
            x,
            labels,
            keys=keys,
            targets=targets or None,
            configs=[run.config.attack for run in runs],
            **sound_of(runs[0].config, runs[0].bank),
        )
    )
    max_steps = 1
    with contextlib.ExitStack() as stack:
        trails = [
            stack.enter_context(open_trail(run, state, place))
            for run, state in zip(runs, states, strict=True)
        ]
        states = [trail.state for trail in trails]
        if width is None:
            width = fitting_width(trails, logits_fn, variables, problems[0])
        while running := [i for i, s in enumerate(states) if attacks.is_running(s)]:
            first = min(running, key=lambda i: trails[i].progress)
            phase, done, total = attacks.progress(problems[first], states[first])
            what = f"pass {int(states[first].num_passes) + 1}, {phase}"
            runs[first].console.progress(what, done, total)
            started = time.perf_counter()
            new = list(states)
            if width == 1:
                new[first] = attacks.advance(
                    logits_fn,
                    variables,
                    problems[first],
                    states[first],
                    max_steps=max_steps,
                )
            else:
                new = attacks.advance_together(
                    logits_fn,
                    variables,
                    problems,
                    states,
                    width=width,
                    max_steps=max_steps,
                )
            jax.block_until_ready(new)
            seconds = time.perf_counter() - started
            max_steps = environment.segment_steps(max_steps, seconds)
            advanced = [i for i in running if new[i] is not states[i]]
            states = new
            for i in advanced:
                trails[i].follow(states[i], seconds / len(advanced))
    # The evaluation runs on one device.
    results = jax.device_get([attacks.result(state) for state in states])
    for trail, result in zip(trails, results, strict=True):
        explain(trail.ready, result)
    return results


def _finish(
    ready: Prepared,
    attacked: AttackResult | Exception,
    strict: bool,
    compiled_s: float,
) -> Result:
    """Evaluates and stores the result of an attack; writes the report."""
    if isinstance(attacked, Exception):
        raise attacked
    config, workdir, console, clips, model, gain, keys, bank = ready
    started = time.perf_counter()
    perturbation = dataclasses.replace(
        attacked.perturbation,
        scaling=config.scaling,
        sample_rate_hz=clips.dataset.sample_rate_hz,
    )
    sound = store.write_perturbation(perturbation, workdir)
    evaluate = Evaluator(config, clips, model, gain, keys[1], console, bank)
    evaluation, summary = evaluate(perturbation, sound)
    table = evaluate.table(perturbation)
    in_clip = placed_perturbation(perturbation, config)
    unlabelled = write_submissions(evaluate, in_clip, workdir, strict=strict)
    front = evaluate_front(evaluate, attacked.front, perturbation, workdir)
    # Every success rate takes 6,400 evaluations.
    if table and front and attacked.front is not None and asks_for_table(config):
        table["front"] = evaluate_front_moments(
            evaluate, attacked.front, perturbation, front, table["moments"]
        )
    store.write_test_clips(evaluation, clips, workdir)
    examples = store.write_examples(
        evaluation, clips, in_clip, workdir, scaling=config.scaling
    )
    arrivals = (
        arrivals_of(evaluate, perturbation, examples[0]) if table and examples else []
    )
    passes = files.read_lines(workdir / "metrics.jsonl")
    result = files.finite(
        {
            "method": resolve_method(config.method).name,
            "model": config.model,
            "dataset": clips.dataset.name,
            "scaling": config.scaling,
            "target": config.target,
            "attack_class": config.attack_class,
            "seed": config.seed,
            "clean_accuracy": summary["clean_accuracy"],
            "converged": bool(attacked.converged),
            "stop_reason": types.STOP_REASONS[int(attacked.stop_reason)],
            "num_passes": int(attacked.num_passes),
            "train": {
                "asr": float(attacked.train_asr),
                "num_clips": len(clips.attack),
                **_not_finite(attacked, clips),
            },
            "test": summary["test"],
            "control": summary["control"],
            **{key: summary[key] for key in ("detection",) if key in summary},
            **({"channel": config.channel} if config.channel else {}),
            **({"channels": table} if table else {}),
            **({"front": front} if front else {}),
            **({"unlabelled": unlabelled} if unlabelled else {}),
            "victim": model.facts,
            "seconds": {
                "train_model": model.seconds,
                "attack": sum(entry["seconds"] or 0.0 for entry in passes),
                "evaluate": time.perf_counter() - started,
                "compile": environment.compile_seconds() - compiled_s,
            },
            "versions": environment.versions(),
            "hardware": environment.hardware(),
        }
    )
    console.progress("writing the report", 0, 1)
    write_report(
        workdir / "report.html",
        ReportData(
            config=files.read_json(workdir / "config.json") or {},
            result=result,
            passes=passes,
            perturbation=np.asarray(attacks.perturbation_waveform(perturbation)),
            sample_rate_hz=clips.dataset.sample_rate_hz,
            examples=examples,
            arrivals=arrivals,
            per_class=per_class(evaluation, clips),
            **victim.learned_bank(config, model),
        ),
    )
    console.progress("writing the report", 1, 1)
    # Last: it says that the run is finished.
    files.write_json(workdir / "result.json", result)
    return result


def _not_finite(attacked: AttackResult, clips: Clips) -> dict[str, Any]:
    """Returns the entries of "train" on attack clips with what is not finite."""
    left_out = np.flatnonzero(attacked.left_out)
    names = clips.dataset.names[clips.attack[left_out[:MAX_NAMED]]]
    return {
        "num_non_finite": int(np.count_nonzero(attacked.non_finite)),
        "num_left_out": len(left_out),
        "left_out": [str(name) for name in names],
    }
