"""Damaged work directories: applied, judged again, reported, gone on with."""

import dataclasses
import functools
import gc
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fuzz_bytes import DAMAGES
from fuzz_guard import LAUNCHER_ERRORS, LIBRARY_ERRORS, Outcomes, snapshot
from fuzz_recordings import RATE_HZ, good
from fuzz_texts import json_files
from uap_jax.runs.applying import Settings, apply

from uap_jax import attacks, checkpoints, models
from uap_jax.console import Console
from uap_jax.runs import attack, config, evaluating, judge, pipeline, victim

# Of Orbax: what waits for a file when another turns out to be damaged.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)
COUNTS = (6, pytest.param(100, marks=pytest.mark.slow))
NUM_CLIPS, NUM_SAMPLES, NUM_CLASSES = 6, 40, 3


@pytest.fixture(autouse=True)
def nothing_waits():
    yield
    gc.collect()


@pytest.fixture(params=COUNTS)
def count(request):
    return request.param


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    for word in ("high", "low"):
        (folder / word).mkdir()
        for speaker in range(20):
            path = folder / word / f"{speaker:08x}_nohash_0.wav"
            path.write_bytes(good(speaker % 3))
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory, corpus):
    """A finished run of which only the numbers are made up; its request too."""
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    workdir.mkdir()
    request = pipeline.Request("penalty", "spchcmd", data_dir=str(corpus), target="low")
    settings = config.resolve(**dataclasses.asdict(request), on_accelerator=False)
    described = config.as_json(settings) | {"command": "python"}
    (workdir / "config.json").write_text(json.dumps(described))
    (workdir / "result.json").write_text(json.dumps(made_up_result()))
    rng = np.random.default_rng(0)
    value = jnp.asarray(rng.uniform(-0.1, 0.1, 16_000), jnp.float32)
    perturbation = attacks.Perturbation(
        value, space="tanh", scaling="fixed", sample_rate_hz=RATE_HZ
    )
    judge.store_perturbation(perturbation, workdir)
    return workdir, request


def made_up_summary():
    test = dict.fromkeys(("asr", "asr_waveform", "asr_shifted"), 0.5)
    test |= {"asr_ci95": [0.4, 0.6], "num_clips": 5, "waveform_gain": 0.5}
    test |= {"snr_db": 20.0, "snr_ac_db": None}
    return {"clean_accuracy": 0.9, "test": test, "control": {"asr": 0.1}}


def made_up_result():
    return {
        **made_up_summary(),
        "train": {"asr": 0.9, "num_clips": 4},
        "target": "low",
        "victim": {"name": "spchcmd-x"},
        "num_passes": 3,
        "converged": True,
        "stop_reason": "converged",
        "seconds": {"train_model": 100.0, "attack": 2.0},
    }


@pytest.fixture
def no_model(monkeypatch):
    """Judges and attacks without a model: what is read of files comes before."""

    def prepare(*_, **__):
        return None, SimpleNamespace(variables={}), {"name": "nobody"}

    monkeypatch.setattr(victim, "prepare", prepare)
    monkeypatch.setattr(judge, "evaluate", lambda *_, **__: (None, made_up_summary()))
    monkeypatch.setattr(judge, "gain", lambda *_: 0.5)
    monkeypatch.setattr(pipeline, "carry_out", lambda *_, **__: made_up_result())


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
            settings=Settings(as_float=bool(index % 2)),
            cache_dir=tmp_path / "cache",
        )
        outcomes.add(kind, call, allowed=LAUNCHER_ERRORS)
        assert snapshot(workdir) == before
        assert source.read_bytes() == good()
    outcomes.check("runs applied")


@pytest.mark.usefixtures("no_model")
def test_run_is_judged_or_refused(finished, count, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished[0], workdir)
    outcomes = Outcomes()
    stored = [Path("config.json"), Path("result.json"), Path("perturbation.wav")]
    stored += files_of(workdir / "checkpoints")
    names = [
        name if (workdir / name).exists() else "checkpoints" / name for name in stored
    ]
    for index, kind in enumerate(damaged_copies(workdir, names, 3 * count)):
        before = snapshot(workdir)
        call = functools.partial(
            evaluating.evaluate,
            workdir,
            workdir=tmp_path / "evaluations" / str(index),
            cache_dir=tmp_path / "cache",
        )
        outcomes.add(kind, call, allowed=LAUNCHER_ERRORS, limit_s=30)
        assert snapshot(workdir) == before
    outcomes.check("runs judged")


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("is_finished", [True, False])
def test_run_is_reported_gone_on_with_or_refused(
    finished, is_finished, count, tmp_path
):
    workdir, request = tmp_path / "run", finished[1]
    shutil.copytree(finished[0], workdir)
    names = [Path("config.json")]
    if is_finished:
        names.append(Path("result.json"))
    else:
        (workdir / "result.json").unlink()
    outcomes = Outcomes()
    for kind in damaged_copies(workdir, names, 2 * count):
        before = snapshot(workdir)
        call = functools.partial(
            pipeline.run, request, workdir=workdir, cache_dir=tmp_path / "cache"
        )
        ending = outcomes.add(kind, call, allowed=LAUNCHER_ERRORS, limit_s=30)
        (workdir / ".lock").unlink(missing_ok=True)
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


def logits(variables, x):
    return jnp.tanh(x @ variables["hidden"]) @ variables["out"]


@pytest.fixture(scope="module")
def go_on(finished):
    """Runs an attack on a toy in a work directory, or goes on with it."""
    keys = jax.random.split(jax.random.key(0), 3)
    variables = {
        "hidden": jax.random.normal(keys[0], (NUM_SAMPLES, 8)),
        "out": 3 * jax.random.normal(keys[1], (8, NUM_CLASSES)),
    }
    x = jax.random.uniform(keys[2], (NUM_CLIPS, NUM_SAMPLES))
    classifier = models.Classifier(logits, variables, NUM_SAMPLES, RATE_HZ)
    request = dataclasses.asdict(finished[1])
    request |= {"overrides": ["max_passes=2", "target_asr=1.0"]}
    settings = config.resolve(**request, on_accelerator=False)
    return functools.partial(
        attack.run_attack,
        settings,
        classifier,
        x,
        jnp.argmax(logits(variables, x), axis=1).astype("int32"),
        target=1,
        key=jax.random.key(7),
        console=Console(),
        save_every_s=0.0,
    )


def test_attack_goes_on_or_is_refused(go_on, count, tmp_path):
    whole, workdir = tmp_path / "whole", tmp_path / "run"
    go_on(workdir=whole)
    names = [name for name in files_of(whole) if name.name != ".lock"]
    assert Path("metrics.jsonl") in names
    outcomes = Outcomes()
    shutil.copytree(whole, workdir)
    for kind in damaged_copies(workdir, names, 2 * count):
        held = {
            path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()
        }
        call = functools.partial(go_on, workdir=workdir)
        naming = (str(workdir),)
        outcomes.add(kind, call, allowed=LAUNCHER_ERRORS, naming=naming, limit_s=30)
        for path in workdir.rglob("*"):
            if (
                path.is_file()
                and path not in held
                and os.path.basename(path) != ".lock"
            ):
                path.unlink()
        for path, content in held.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    outcomes.check("attacks gone on with")
