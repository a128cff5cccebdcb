"""Damaged work directories are used or refused in one line, and stay as they are."""

import functools
import gc
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from fuzz_bytes import DAMAGES
from fuzz_guard import LAUNCHER_ERRORS, LIBRARY_ERRORS, Outcomes, snapshot
from fuzz_recordings import RATE_HZ, good
from fuzz_texts import json_files
from toy_runs import attack, prepare

from uap_jax import attacks, checkpoints
from uap_jax.console import Console
from uap_jax.runs import attack as trails
from uap_jax.runs import evaluate, run, store, victim
from uap_jax.runs.config import RunConfig, as_json
from uap_jax.runs.recordings.apply import apply
from uap_jax.runs.resolve import resolve

# Of Orbax: what waits for a file when another turns out to be damaged.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)
COUNTS = (6, pytest.param(100, marks=pytest.mark.slow))


@pytest.fixture(autouse=True)
def nothing_waits():
    yield
    gc.collect()


@pytest.fixture(params=COUNTS)
def count(request):
    return request.param


SUMMARY = {
    "clean_accuracy": 0.9,
    "test": {
        **{"asr": 0.5, "asr_waveform": 0.5, "asr_shifted": 0.5, "num_clips": 5},
        **{"asr_ci95": [0.4, 0.6], "snr_db": 20.0, "snr_ac_db": None},
        "waveform_gain": 0.5,
    },
    "control": {"asr": 0.1},
}
RESULT = {
    **SUMMARY,
    "train": {"asr": 0.9, "num_clips": 4},
    "target": "low",
    "victim": {"name": "spchcmd-x"},
    "num_passes": 3,
    "converged": True,
    "stop_reason": "converged",
    "seconds": {"train_model": 100.0, "attack": 2.0},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of which only the numbers are made up; its settings too."""
    corpus = tmp_path_factory.mktemp("corpus")
    for word in ("high", "low"):
        (corpus / word).mkdir()
        for speaker in range(20):
            path = corpus / word / f"{speaker:08x}_nohash_0.wav"
            path.write_bytes(good(speaker % 3))
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    workdir.mkdir()
    config = resolve(
        RunConfig(data_dir=str(corpus), target="low"), on_accelerator=False
    )
    described = as_json(config) | {"command": "python"}
    (workdir / "config.json").write_text(json.dumps(described))
    (workdir / "result.json").write_text(json.dumps(RESULT))
    value = np.random.default_rng(0).uniform(-0.1, 0.1, 16_000)
    perturbation = attacks.Perturbation(
        jnp.asarray(value, jnp.float32),
        space="tanh",
        scaling="fixed",
        sample_rate_hz=RATE_HZ,
    )
    store.write_perturbation(perturbation, workdir)
    return workdir, config


@pytest.fixture
def no_model(monkeypatch):
    """Evaluates and attacks without a model: files are read before."""
    nobody = victim.Victim(SimpleNamespace(variables={}), {"name": "nobody"}, 0.0)
    monkeypatch.setattr(victim, "prepare", lambda *_, **__: nobody)
    summary = (None, SUMMARY)
    monkeypatch.setattr(evaluate.Evaluator, "__call__", lambda *_: summary)
    monkeypatch.setattr(run, "_attack", lambda group, _: dict.fromkeys(group))
    monkeypatch.setattr(run, "_finish", lambda *_: RESULT)


def damaged_copies(folder, names, count):
    """Yields how a file of a folder is damaged, and damages it; then heals it."""
    for index in range(count):
        name = names[index % len(names)]
        path = folder / name
        original = path.read_bytes()
        valid = json.loads(original) if path.suffix == ".json" else None
        if isinstance(valid, dict) and index % 5:
            # Of many, so that each file has others.
            kind, content = json_files(valid, 3 * count)[(7 * index) % (3 * count)]
            path.write_bytes(content)
        elif index % 10 == 9:
            path.unlink()
            kind = "left out"
            if index % 20 == 9:
                path.mkdir()
                kind = "a folder"
        else:
            damage = DAMAGES[index % len(DAMAGES)]
            path.write_bytes(damage(original, np.random.default_rng([7, index])))
            kind = damage.__name__
        yield f"{name} {kind}"
        if path.is_dir():
            path.rmdir()
        path.write_bytes(original)


def files_of(folder):
    """The files of a folder, the smallest first; those that tell nothing left out."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    names = [path.relative_to(folder) for path in paths if path.name != ".lock"]
    return sorted(names, key=lambda name: ((folder / name).stat().st_size, str(name)))


def test_run_is_applied_or_refused(finished, count, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished[0], workdir)
    source = tmp_path / "in.wav"
    source.write_bytes(good())
    outcomes = Outcomes()
    names = [Path("config.json"), Path("result.json"), Path("perturbation.wav")]
    for index, kind in enumerate(damaged_copies(workdir, names, 3 * count)):
        before = snapshot(workdir)
        call = functools.partial(
            apply,
            source,
            tmp_path / f"{index}.wav",
            perturbation=workdir,
            as_float=bool(index % 2),
            cache_dir=tmp_path / "cache",
        )
        outcomes.add(kind, call, allowed=LAUNCHER_ERRORS)
        assert snapshot(workdir) == before
        assert source.read_bytes() == good()
    outcomes.check("runs applied")


@pytest.mark.usefixtures("no_model")
def test_run_is_evaluated_or_refused(finished, count, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished[0], workdir)
    outcomes = Outcomes()
    names = [Path("config.json"), Path("result.json"), Path("perturbation.wav")]
    names += ["checkpoints" / name for name in files_of(workdir / "checkpoints")]
    for index, kind in enumerate(damaged_copies(workdir, names, 3 * count)):
        before = snapshot(workdir)
        call = functools.partial(
            evaluate.evaluate_stored,
            workdir,
            workdir=tmp_path / "evaluations" / str(index),
            cache_dir=tmp_path / "cache",
        )
        outcomes.add(kind, call, allowed=LAUNCHER_ERRORS, limit_s=30)
        assert snapshot(workdir) == before
    outcomes.check("runs evaluated")


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("is_finished", [True, False])
def test_run_is_reported_resumed_or_refused(finished, is_finished, count, tmp_path):
    workdir, config = tmp_path / "run", finished[1]
    shutil.copytree(finished[0], workdir)
    names = [Path("config.json")]
    if is_finished:
        names.append(Path("result.json"))
    else:
        (workdir / "result.json").unlink()
    outcomes = Outcomes()

    def carry_out():
        console = Console()
        (result,) = run.run(
            [config], [workdir], cache_dir=tmp_path / "cache", consoles=[console]
        )
        if isinstance(result, Exception):
            raise result
        evaluate.say_result(result, workdir, console)

    for kind in damaged_copies(workdir, names, 2 * count):
        before = snapshot(workdir)
        ending = outcomes.add(kind, carry_out, allowed=LAUNCHER_ERRORS, limit_s=30)
        for name in (".lock", run.LOG):
            (workdir / name).unlink(missing_ok=True)
        after = snapshot(workdir)
        if ending == "refused":
            assert after == before, kind
        else:
            assert before.keys() <= after.keys(), kind
    outcomes.check(f"runs{'' if is_finished else ' not'} finished")


def test_stored_perturbation_is_read_or_refused(finished, count, tmp_path):
    folder = tmp_path / "perturbation"
    shutil.copytree(finished[0] / "checkpoints" / "perturbation", folder)
    outcomes = Outcomes()
    for kind in damaged_copies(folder, files_of(folder), 2 * count):
        before = snapshot(folder)
        call = functools.partial(checkpoints.load_perturbation, folder)
        naming = (str(folder),)
        outcomes.add(kind, call, allowed=LIBRARY_ERRORS, naming=naming)
        assert snapshot(folder) == before
    outcomes.check("stored perturbations")


def test_attack_resumes_or_is_refused(count, tmp_path, monkeypatch):
    monkeypatch.setattr(trails, "SAVE_EVERY_S", 0.0)
    workdir = tmp_path / "run"
    ready = prepare(workdir, max_passes=2)
    attack(ready)
    names = [name for name in files_of(workdir) if name.name != ".lock"]
    assert Path("metrics.jsonl") in names
    whole = tmp_path / "whole"
    shutil.copytree(workdir, whole)
    outcomes = Outcomes()
    for kind in damaged_copies(workdir, names, 2 * count):
        call = functools.partial(attack, ready)
        naming = (str(workdir),)
        outcomes.add(kind, call, allowed=LAUNCHER_ERRORS, naming=naming, limit_s=30)
        shutil.rmtree(workdir)
        shutil.copytree(whole, workdir)
    outcomes.check("attacks resumed")
