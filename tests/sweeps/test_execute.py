"""How jobs are carried out: groups, faults, folders in use; with other work."""

from types import SimpleNamespace

import numpy as np
import pytest
from sweeps import MANIFEST, finish, plan_built_in

from uap_jax import files
from uap_jax.attacks import Perturbation
from uap_jax.console import Console
from uap_jax.errors import UsageError
from uap_jax.sweeps import execute, trials
from uap_jax.sweeps.corpora import Context


@pytest.fixture
def planned(tmp_path, write_manifest):
    return plan_built_in(write_manifest(MANIFEST), tmp_path)


def run_local(planned, workdir, monkeypatch, work, **options):
    """Runs the local executor with other work than attacks; returns what began too."""

    def run(configs, workdirs, *, wait, **_):
        results = []
        for config, folder in zip(configs, workdirs, strict=True):
            try:
                with files.locked(folder, wait=wait):
                    results.append(work(config, folder))
            except Exception as error:
                results.append(error)
        return results

    monkeypatch.setattr(execute, "run", run)
    started = []
    context = Context(workdir, workdir)
    outcomes = execute.run_local(planned, context, Console(), started.append, **options)
    return list(outcomes), started


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_folder_in_use_comes_last(planned, tmp_path, monkeypatch, at_once):
    held = files.locked(planned[0].folder(tmp_path), wait=False)
    held.__enter__()

    def work(config, workdir):
        # The other process is done while this one works on its last job.
        if workdir == planned[3].folder(tmp_path):
            held.__exit__(None, None, None)
        return {}

    outcomes, started = run_local(planned, tmp_path, monkeypatch, work, at_once=at_once)
    assert outcomes[-1].job == planned[0]
    assert {outcome.job.id for outcome in outcomes} == {job.id for job in planned}
    assert all(outcome.error is None for outcome in outcomes)
    assert started[0] == started[-1] == planned[0]


def test_every_error_is_an_outcome(planned, tmp_path, monkeypatch):
    errors = [UsageError("--x: expected y"), MemoryError(), ValueError("a\nb"), None]
    by_folder = {
        job.folder(tmp_path): error for job, error in zip(planned, errors, strict=True)
    }

    def work(config, workdir):
        if error := by_folder[workdir]:
            raise error
        return {}

    outcomes, _ = run_local(planned, tmp_path, monkeypatch, work)
    lines = ["--x: expected y", "MemoryError", "ValueError: a b", None]
    assert [outcome.error for outcome in outcomes] == lines
    folder = planned[2].folder(tmp_path)
    assert "Traceback" in (folder / execute.LOG).read_text()
    assert (folder / execute.ERROR).read_text() == "ValueError: a b"
    assert not (planned[3].folder(tmp_path) / execute.ERROR).exists()


def test_an_incomplete_result_is_made_again(planned, tmp_path, monkeypatch):
    finish(planned[0], tmp_path)
    path = planned[1].folder(tmp_path) / "result.json"
    path.write_text('{"test": {')

    def work(config, workdir):
        assert not (workdir / "result.json").exists()
        return {}

    outcomes, _ = run_local(planned[1:], tmp_path, monkeypatch, work)
    assert len(outcomes) == 3


def test_groups(planned, tmp_path, write_manifest):
    def sizes(text, at_once):
        trials = plan_built_in(write_manifest(text), tmp_path)
        groups = execute.grouped(trials, at_once=at_once)
        assert sorted(t.id for group in groups for t in group) == sorted(
            t.id for t in trials
        )
        for group in groups:
            assert len({t.settings["target"] is None for t in group}) == 1
            assert len({t.settings["seed"] for t in group}) == 1
        return [len(group) for group in groups]

    assert sizes(MANIFEST, 1) == [1] * 4
    # Two values of kappa each; targeted and untargeted attacks are other programs.
    assert sizes(MANIFEST, 2) == [2, 2]
    assert sizes(MANIFEST, None) == [2, 2]
    assert sizes(MANIFEST.replace('"first:1"', '"each"'), 2) == [2, 4]
    assert sizes(MANIFEST.replace("seed = 4", "seed = [4, 5]"), 8) == [2] * 4
    many = MANIFEST.replace("[10, 20]", str([*range(1, 41)]))
    assert sizes(many, 8) == [32, 8, 32, 8]


def test_a_short_sound_lies_in_other_models_clips_as_in_its_own(
    tmp_path, write_manifest, monkeypatch
):
    text = MANIFEST.replace('"spchcmd"', '["cnn_rand", "sincnet"]').replace(
        'method = "penalty"',
        'method = "penalty"\nchannel = "moment"\nsound_seconds = 0.5',
    )
    planned = plan_built_in(write_manifest(text), tmp_path)
    transfer = trials.transfers(planned)[0]
    stored = Perturbation(value=np.arange(8000, dtype=np.float32), space="tanh")
    corpus = SimpleNamespace(dataset=SimpleNamespace(class_names=()))
    net = SimpleNamespace(classifier=SimpleNamespace(logits=None, variables=None))
    net.facts = {}
    given = []
    fakes = {
        "load_corpus": lambda *_, **__: corpus,
        "choose_test_clips": lambda *_: None,
        "sound_gain": lambda *_: 1.0,
        "class_index": lambda *_: None,
        "evaluate_transfer": lambda *args, **_: given.append(args[4]) or {},
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(execute, name, fake)
    monkeypatch.setattr(execute.victim, "prepare", lambda *_, **__: net)
    monkeypatch.setattr(execute.checkpoints, "load_perturbation", lambda _: stored)
    context = Context(tmp_path, tmp_path)
    (outcome,) = execute.run_group([transfer], context, Console())
    assert outcome.error is None
    np.testing.assert_array_equal(given[0].value, np.resize(stored.value, 50_999))
