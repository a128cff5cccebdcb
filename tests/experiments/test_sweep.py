"""Sweeps in a process of their own: kills, failures, what is done already."""

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tones import write_tones

from uap_jax.experiments import artifacts, executors, manifest, plan, trials
from uap_jax.experiments.console import Console, UsageError

MANIFEST = """
name = "quick"
title = "A quick sweep"

[[trials]]
model = "spchcmd"
method = "penalty"
target = ["untargeted", "first:1"]
scaling = "peak"
seed = 3
num_attack_clips = 20

[trials.set]
attack.confidence = [10, 20]
attack.max_passes = 2
training.num_clips_seen = 300
training.batch_size = 10

[table]
kind = "mean"
rows = ["attack.confidence", "target"]
measures = ["test.asr", "train.asr", "test.snr_db", "num_passes"]
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_tones(tmp_path_factory.mktemp("corpus") / "tones")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def write(tmp_path):
    def write(text, name="quick"):
        path = tmp_path / f"{name}.toml"
        path.write_text(text.replace('name = "quick"', f'name = "{name}"'))
        return path

    return write


def flags(path, corpus, cache, workdir, *more):
    return (
        *(f"--manifest={path}", f"--data_dir={corpus}", f"--cache_dir={cache}"),
        *(f"--workdir={workdir}", *more),
    )


def launch(*arguments):
    command = [sys.executable, "-m", "uap_jax.experiments.sweep", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=900, check=False
    )


def table_of(workdir, name="quick"):
    return json.loads((workdir / "tables" / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def finished(corpus, cache, tmp_path_factory):
    """The folder of a sweep that nothing disturbed, its manifest, what it said."""
    folder = tmp_path_factory.mktemp("sweeps")
    path = folder / "quick.toml"
    path.write_text(MANIFEST)
    done = launch(*flags(path, corpus, cache, folder / "whole"))
    assert done.returncode == 0, done.stderr
    return folder / "whole", path, done


def test_whole_sweep(finished):
    workdir, _, done = finished
    line = '[4/4] penalty spchcmd "high" 20 clips seed 3 attack.confidence=20'
    assert line in done.stdout
    assert "left" in done.stdout
    folders = sorted((workdir / "trials").iterdir())
    assert len(folders) == 4
    for folder in folders:
        for name in ("result.json", "config.json", "log.txt", "perturbation.wav"):
            assert (folder / name).exists()
    stored = table_of(workdir)
    assert stored["num_done"] == stored["num_trials"] == 4
    assert stored["seeds"] == [3]
    assert "--manifest=" in stored["command"]
    assert stored["hardware"] and stored["fingerprints"] and stored["corpora"]
    assert [row["attack.confidence"] for row in stored["rows"]] == [10, 10, 20, 20]
    assert all(row["test.asr"] is not None for row in stored["rows"])
    for suffix in ("md", "csv", "tex"):
        assert (workdir / "tables" / f"quick.{suffix}").stat().st_size > 100


def test_the_model_was_trained_once(finished):
    workdir, _, _ = finished
    logs = [(folder / "log.txt").read_text() for folder in workdir.glob("trials/*")]
    assert sum("training spchcmd" in log for log in logs) == 1


def test_a_single_trial_can_be_run_again_by_its_command(finished):
    workdir, _, _ = finished
    folder = next((workdir / "trials").iterdir())
    command = json.loads((folder / "config.json").read_text())["command"]
    assert command.startswith("python -m uap_jax.experiments.run ")
    (folder / "report.html").unlink()
    (folder / "result.json").rename(folder / "before.json")
    done = subprocess.run(
        [sys.executable, *shlex.split(command)[1:]],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    before, after = (
        json.loads((folder / name).read_text())
        for name in ("before.json", "result.json")
    )
    for key in ("test", "train", "control", "num_passes"):
        assert before[key] == after[key]
    (folder / "before.json").unlink()


def test_what_is_done_is_not_done_again(finished, corpus, cache, write):
    workdir, path, _ = finished
    before = {file: file.stat().st_mtime_ns for file in workdir.glob("trials/*/*.json")}
    again = launch(*flags(path, corpus, cache, workdir))
    assert again.returncode == 0
    assert "nothing to do" in again.stdout
    # Another manifest with some of the same trials, and a trial of its own.
    other = MANIFEST.replace("[10, 20]", "10").replace('"first:1"', '"first:1", "mid"')
    added = launch(*flags(write(other, "other"), corpus, cache, workdir))
    assert added.returncode == 0
    assert "3 trials, 2 done" in added.stdout
    assert len(list((workdir / "trials").iterdir())) == 5
    assert all(file.stat().st_mtime_ns == value for file, value in before.items())
    assert [row["target"] for row in table_of(workdir, "other")["rows"]] == [
        *("untargeted", "high", "mid")
    ]


@pytest.mark.parametrize(
    ("marker", "delay_s"),
    [("[2/4]", 0.0), pytest.param("[3/4]", 1.0, marks=pytest.mark.slow)],
)
def test_killed_and_started_again(finished, corpus, cache, tmp_path, marker, delay_s):
    workdir, path, _ = finished
    arguments = flags(path, corpus, cache, tmp_path / "killed")
    command = [sys.executable, "-m", "uap_jax.experiments.sweep", *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert any(marker in line for line in process.stdout)
        time.sleep(delay_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    again = launch(*arguments)
    assert (again.returncode, again.stderr) == (0, "")
    assert "4 trials, 0 done" not in again.stdout
    assert table_of(tmp_path / "killed")["rows"] == table_of(workdir)["rows"]
    for folder in (tmp_path / "killed" / "trials").iterdir():
        np.testing.assert_array_equal(
            np.load(folder / "perturbation.npy"),
            np.load(workdir / "trials" / folder.name / "perturbation.npy"),
        )


def test_a_failure_in_the_middle(finished, corpus, cache, write):
    workdir, _, _ = finished
    trial = MANIFEST[MANIFEST.index("[[trials]]") : MANIFEST.index("[table]")]
    # Training diverges: its loss is no number.
    broken = trial.replace("[trials.set]", "[trials.set]\npeak_learning_rate = 1e30")
    broken = broken.replace("[10, 20]", "10").replace(
        '["untargeted", "first:1"]', '"low"'
    )
    after = trial.replace('["untargeted", "first:1"]', '"low"')
    path = write(MANIFEST.replace(trial, trial + broken + after), "broken")
    done = launch(*flags(path, corpus, cache, workdir))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith('error: penalty spchcmd "low"')
    assert "FloatingPointError" in line
    log = Path(line.partition("(log: ")[2].rstrip(")"))
    assert "Traceback" in log.read_text()
    rows = table_of(workdir, "broken")["rows"]
    low = next(row for row in rows if row["target"] == "low")
    assert (low["num_done"], low["num_trials"]) == (1, 2)
    assert sum(row["num_done"] for row in rows) == 6
    assert "missing: penalty" in (workdir / "tables" / "broken.md").read_text()
    again = launch(*flags(path, corpus, cache, workdir))
    assert again.returncode == 1
    assert "7 trials, 6 done" in again.stdout


def test_moved_recordings_and_others(finished, corpus, cache, tmp_path):
    workdir, path, _ = finished
    moved = tmp_path / "moved"
    shutil.copytree(corpus, moved)
    there = launch(*flags(path, moved, cache, workdir))
    assert (there.returncode, there.stderr) == (0, "")
    assert "nothing to do" in there.stdout
    others = write_tones(tmp_path / "others", seed=1)
    refused = launch(*flags(path, others, cache, workdir))
    assert refused.returncode == 2
    assert "other recordings" in refused.stderr
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "more", "message"),
    [
        (("first:1", "cow"), (), "trials[0].target: expected one of high, low, mid"),
        (("attack.max_passes", "nonsense"), (), "trials[0]: --set: 'nonsense'"),
        (("max_passes = 2", 'max_passes = "x"'), (), "expected int, got 'x'"),
        (('"target"]', '"nonsense"]'), (), "got 'nonsense'"),
        (("", ""), ("--scale=huge",), "scale"),
        (("", ""), ("--executor=cloud",), "executor"),
        (("", ""), ("--data_dir=/no/such",), "--data_dir"),
        (("", ""), ("--dataset=cats", "--dataset=esc10"), "--dataset"),
        (("", ""), ("--manifest=/no/such.toml",), "/no/such.toml"),
        (("", ""), ("--workdir=/dev/null/x",), "/dev/null"),
        (("", ""), ("--split=paper",), "split"),
    ],
)
def test_mistakes_are_one_line(corpus, cache, tmp_path, write, change, more, message):
    path = write(MANIFEST.replace(*change))
    if message == "--data_dir":
        # Twice the flag, without the corpora that they are of.
        corpus = tmp_path
    done = launch(*flags(path, corpus, cache, tmp_path / "w", *more))
    assert done.returncode == 2, done.stdout
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


RESULT = {
    "clean_accuracy": 0.9,
    "converged": True,
    "stop_reason": "converged",
    "num_passes": 2,
    "dataset": "synthetic_speech",
    "train": {"asr": 0.9, "num_clips": 20},
    "test": {"asr": 0.8, "num_clips": 18, "snr_db": 20.0},
    "control": {"asr": 0.1},
    "hardware": {
        **{"device": "cpu", "platform": "cpu", "num_devices": 1},
        **{"processor": "some", "num_cores": 2},
    },
    "versions": {"uap_jax": "0", "jax": "0"},
}
BUILT_IN = {
    "synthetic_speech-official-16000": {
        **{"fingerprint": "x", "class_names": ["a", "b"], "data_dir": None},
    }
}


def plan_built_in(path, workdir):
    """Plans trials on the built-in corpus without rendering it."""
    workdir.mkdir(exist_ok=True)
    artifacts.write_json(workdir / plan.INDEX, {"corpora": BUILT_IN})

    def load(settings):
        raise AssertionError("the index knows the corpus")

    declared = manifest.load(path, scale="paper")
    return plan.make_plan(declared, (plan.CorpusFlags(),), workdir=workdir, load=load)


def finish(trial, workdir, **changes):
    folder = trial.folder(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    artifacts.write_json(folder / "result.json", RESULT | changes)


def test_200_finished_trials_take_seconds_and_load_no_jax(tmp_path, write):
    path = write(MANIFEST.replace("seed = 3", f"seed = {list(range(50))}"))
    planned = plan_built_in(path, tmp_path / "w")
    assert len(planned) == 200
    for trial in planned:
        finish(trial, tmp_path / "w")
    program = (
        "import atexit, runpy, sys\n"
        "heavy = ('jax', 'flax', 'optax', 'orbax', 'librosa', 'scipy', 'matplotlib')\n"
        "atexit.register(lambda: print([m for m in heavy if m in sys.modules]))\n"
        f"sys.argv = ['sweep', '--manifest={path}', '--workdir={tmp_path / 'w'}']\n"
        "runpy.run_module('uap_jax.experiments.sweep', run_name='__main__')"
    )
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert time.monotonic() - started < 5
    assert (done.returncode, done.stderr) == (0, "")
    assert "200 trials, 200 done" in done.stdout
    assert "nothing to do" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
    assert [row["num_done"] for row in table_of(tmp_path / "w")["rows"]] == [50] * 4


def test_an_attack_that_could_not_go_on_is_a_failure(tmp_path, write):
    path = write(MANIFEST)
    planned = plan_built_in(path, tmp_path / "w")
    for trial in planned[1:]:
        finish(trial, tmp_path / "w")
    finish(planned[0], tmp_path / "w", stop_reason="non_finite_logits")
    done = launch(f"--manifest={path}", f"--workdir={tmp_path / 'w'}")
    assert done.returncode == 1
    assert "stopped in pass 3: non finite logits" in done.stderr
    rows = table_of(tmp_path / "w")["rows"]
    assert [row["test.asr"] for row in rows] == [None, 0.8, 0.8, 0.8]


def test_a_damaged_index_is_made_again(tmp_path, write):
    path = write(MANIFEST.replace('"first:1"', '"a"'))
    planned = plan_built_in(path, tmp_path / "w")
    for damage in ("", "[]", '{"plans": 3}', '{"plans": {"quick paper": []}}', "\0"):
        (tmp_path / "w" / plan.INDEX).write_text(damage)
        assert plan.read_index(tmp_path / "w")["corpora"] == {}
    assert plan_built_in(path, tmp_path / "w") == planned


def test_half_a_result_is_none(tmp_path, write):
    trial = plan_built_in(write(MANIFEST), tmp_path)[0]
    assert trials.read_result(trial, tmp_path) is None
    finish(trial, tmp_path)
    assert trials.read_result(trial, tmp_path)["num_passes"] == 2
    whole = (trial.folder(tmp_path) / "result.json").read_text()
    for text in (whole[:-20], "", "[]", "{}", '{"test": 1}'):
        (trial.folder(tmp_path) / "result.json").write_text(text)
        assert trials.read_result(trial, tmp_path) is None


def test_ids_follow_what_changes_a_result(tmp_path, write):
    def ids(text):
        found = plan_built_in(write(text), tmp_path / "w")
        return [trial.id for trial in found]

    first = ids(MANIFEST)
    assert len(set(first)) == 4
    same = [
        MANIFEST.replace(
            "num_attack_clips = 20", 'preset = "default"\nnum_attack_clips = 20'
        ),
        MANIFEST.replace("[trials.set]", "[trials.set]\nattack.micro_batch_size = 5"),
        MANIFEST.replace("[trials.set]", "[trials.set]\nattack.target_asr = 0.9"),
        MANIFEST.replace("first:1", "a"),
    ]
    for text in same:
        assert ids(text) == first
    for old, new in [
        ("seed = 3", "seed = 4"),
        ("num_attack_clips = 20", "num_attack_clips = 21"),
        ("peak", "fixed"),
        ("max_passes = 2", "max_passes = 3"),
        ("num_clips_seen = 300", "num_clips_seen = 301"),
    ]:
        assert not set(ids(MANIFEST.replace(old, new))) & set(first)


def test_transfers_pair_trials_that_are_alike(tmp_path, write):
    text = MANIFEST.replace('"spchcmd"', '["cnn_rand", "sincnet", "spchcmd"]')
    scenes = {"fingerprint": "y", "class_names": ["a", "b"], "data_dir": None}
    BUILT_IN_BOTH = BUILT_IN | {"synthetic_urban-official-50999": scenes}
    tmp_path.joinpath("w").mkdir()
    artifacts.write_json(tmp_path / "w" / plan.INDEX, {"corpora": BUILT_IN_BOTH})
    declared = manifest.load(write(text), scale="paper")
    planned = plan.make_plan(
        declared, (plan.CorpusFlags(),), workdir=tmp_path / "w", load=lambda _: None
    )
    assert len(planned) == 12
    found = trials.transfers(planned)
    # Two models of scenes, either way; none of speech.
    assert len(found) == len({job.id for job in found}) == 8
    for job in found:
        assert job.source.config["target"] == job.victim.config["target"]
        assert {job.source.config["model"], job.victim.config["model"]} == {
            *("cnn_rand", "sincnet")
        }


def test_corpora_of_models():
    urban = plan.CorpusFlags("urbansound8k", "/u")
    speech = plan.CorpusFlags("speech_commands_paper32", "/s")
    assert plan.pair_corpora([], []) == (plan.CorpusFlags(),)
    assert plan.pair_corpora([], ["/x"]) == (plan.CorpusFlags(None, "/x"),)
    pairs = plan.pair_corpora([urban.dataset, speech.dataset], ["/u", "/s"])
    assert pairs == (urban, speech)
    split, whole = plan.pair_corpora(
        [urban.dataset, "folder"], ["/u", "/f"], split="paper", group_pattern="(x)"
    )
    assert (split.split, split.group_pattern) == ("paper", None)
    assert (whole.split, whole.group_pattern) == (None, "(x)")
    mixed = plan.pair_corpora(["synthetic_speech", "esc10"], ["/e"])
    assert mixed[1] == plan.CorpusFlags("esc10", "/e")
    assert plan.corpus_of("cnn_rand", pairs) == urban
    assert plan.corpus_of("spchcmd", pairs) == speech
    assert plan.corpus_of("spchcmd", (urban,)) == urban
    assert plan.corpus_of("spchcmd", (urban, mixed[1])).dataset is None
    for names, folders in [
        ([], ["/a", "/b"]),
        (["esc10"], []),
        (["esc10"], ["a", "b"]),
    ]:
        with pytest.raises(UsageError, match="--data_dir: expected"):
            plan.pair_corpora(names, folders)


def run_local(planned, workdir, monkeypatch, work):
    """Runs the local executor with other work than attacks."""
    monkeypatch.setattr(executors, "_run_trial", work)
    context = executors.Context(workdir=workdir, cache_dir=workdir, strict=False)
    started = []
    outcomes = executors.run_local(planned, context, Console(), started.append)
    return list(outcomes), started


def test_what_another_process_is_at_comes_last(tmp_path, write, monkeypatch):
    planned = plan_built_in(write(MANIFEST), tmp_path)
    held = artifacts.locked(planned[0].folder(tmp_path), wait=False)
    held.__enter__()

    def work(trial, folder, *_):
        # The other one is done while this one works on the last of its own.
        if trial is planned[3]:
            finish(planned[0], tmp_path)
            held.__exit__(None, None, None)
        assert trial is not planned[0]
        finish(trial, tmp_path)

    outcomes, started = run_local(planned, tmp_path, monkeypatch, work)
    assert [outcome.job for outcome in outcomes] == [*planned[1:], planned[0]]
    assert all(outcome.error is None for outcome in outcomes)
    assert started[0] == started[-1] == planned[0]


def test_every_error_is_an_outcome(tmp_path, write, monkeypatch):
    planned = plan_built_in(write(MANIFEST), tmp_path)
    errors = [UsageError("--x: expected y"), MemoryError(), ValueError("a\nb"), None]

    def work(trial, folder, *_):
        error = errors[planned.index(trial)]
        if error is not None:
            raise error

    outcomes, _ = run_local(planned, tmp_path, monkeypatch, work)
    assert [outcome.error for outcome in outcomes] == [
        *("--x: expected y", "MemoryError", "ValueError: a b", None)
    ]
    log = planned[2].folder(tmp_path) / executors.LOG
    assert "Traceback" in log.read_text()


def test_time_left():
    def trial(model):
        config = {"method": "penalty", "model": model}
        return plan.Trial(model, {}, config, "")

    spent = {"penalty a": [2.0, 4.0], "other": [9.0]}
    assert trials.seconds_left([trial("a"), trial("b")], spent) == 3 + 5
