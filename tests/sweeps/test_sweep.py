"""Sweeps: a whole one, kills, failures, what is done already."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from launching import kill_at, launch, launch_here
from sweeps import MANIFEST, finish, plan_built_in
from tones import write_tones


def flags(path, corpus, cache, workdir, *more):
    return (
        *(f"--manifest={path}", f"--data_dir={corpus}", f"--cache_dir={cache}"),
        *(f"--workdir={workdir}", *more),
    )


def table_of(workdir, name="quick"):
    return json.loads((workdir / "tables" / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def finished(finished_run, corpus, cache, tmp_path_factory):
    """The folder of a sweep that nothing disturbed, its manifest, what it said."""
    # After a run that has compiled the same programs.
    del finished_run
    folder = tmp_path_factory.mktemp("sweeps")
    path = folder / "quick.toml"
    path.write_text(MANIFEST)
    done = launch("sweep", *flags(path, corpus, cache, folder / "whole"))
    assert done.returncode == 0, done.stderr
    return folder / "whole", path, done


def test_whole_sweep(finished):
    workdir, _, done = finished
    line = '[4/4] penalty spchcmd "high" 20 clips seed 4 attack.confidence=20'
    assert line in done.stdout
    assert "left" in done.stdout
    folders = sorted((workdir / "trials").iterdir())
    assert len(folders) == 4
    for folder in folders:
        for name in ("result.json", "config.json", "log.txt", "perturbation.wav"):
            assert (folder / name).exists()
    stored = table_of(workdir)
    assert stored["num_done"] == stored["num_trials"] == 4
    assert stored["seeds"] == [4]
    assert "--manifest=" in stored["command"]
    assert stored["hardware"] and stored["fingerprints"] and stored["corpora"]
    assert [row["attack.confidence"] for row in stored["rows"]] == [10, 10, 20, 20]
    assert all(row["test.asr"] is not None for row in stored["rows"])
    for suffix in ("md", "csv", "tex"):
        assert (workdir / "tables" / f"quick.{suffix}").stat().st_size > 100


@pytest.mark.slow
def test_attacks_in_one_program_give_the_same_table(finished, corpus, cache, tmp_path):
    workdir, path, _ = finished
    together = launch_here(
        "sweep", *flags(path, corpus, cache, tmp_path / "w", "--at_once=2")
    )
    assert together.returncode == 0, together.stderr
    assert together.stdout.count("2 attacks together") == 2
    alone, found = (table_of(folder)["rows"] for folder in (workdir, tmp_path / "w"))
    for mine, other in zip(found, alone, strict=True):
        assert mine["test.asr"] == pytest.approx(other["test.asr"], abs=0.06)
        assert mine["test.snr_db"] == pytest.approx(other["test.snr_db"], abs=0.3)
        assert mine["num_passes"] == other["num_passes"]


def test_the_model_was_trained_once(finished):
    workdir, _, _ = finished
    logs = [(folder / "log.txt").read_text() for folder in workdir.glob("trials/*")]
    assert sum("training spchcmd" in log for log in logs) == 1


@pytest.mark.slow
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


@pytest.mark.slow
def test_what_is_done_is_not_done_again(finished, corpus, cache, write_manifest):
    workdir, path, _ = finished
    before = {file: file.stat().st_mtime_ns for file in workdir.glob("trials/*/*.json")}
    again = launch_here("sweep", *flags(path, corpus, cache, workdir))
    assert (again.returncode, again.stderr) == (0, "")
    assert "nothing to do" in again.stdout
    # Another manifest with some of the same trials, and a trial of its own.
    other = MANIFEST.replace("[10, 20]", "10").replace('"first:1"', '"first:1", "mid"')
    path = write_manifest(other, "other")
    added = launch_here("sweep", *flags(path, corpus, cache, workdir))
    assert (added.returncode, added.stderr) == (0, "")
    assert "3 trials, 2 done" in added.stdout
    assert len(list((workdir / "trials").iterdir())) == 5
    assert all(file.stat().st_mtime_ns == value for file, value in before.items())
    assert [row["target"] for row in table_of(workdir, "other")["rows"]] == [
        *("untargeted", "high", "mid")
    ]


@pytest.mark.slow
@pytest.mark.parametrize("delay_s", [0.0, 1.0], ids=str)
def test_killed_and_started_again(
    finished, corpus, cache, tmp_path, write_manifest, delay_s
):
    workdir, _, _ = finished
    path = write_manifest(MANIFEST.replace("[10, 20]", "10"))
    arguments = flags(path, corpus, cache, tmp_path / "killed")
    kill_at("[2/2]", "sweep", *arguments, delay_s=delay_s)
    again = launch("sweep", *arguments)
    assert (again.returncode, again.stderr) == (0, "")
    assert "2 trials, 1 done" in again.stdout
    assert table_of(tmp_path / "killed")["rows"] == table_of(workdir)["rows"][:2]
    folders = list((tmp_path / "killed" / "trials").iterdir())
    assert len(folders) == 2
    for folder in folders:
        np.testing.assert_array_equal(
            np.load(folder / "perturbation.npy"),
            np.load(workdir / "trials" / folder.name / "perturbation.npy"),
        )


@pytest.mark.slow
def test_a_failure_in_the_middle(finished, corpus, cache, write_manifest):
    workdir, _, _ = finished
    trial = MANIFEST[MANIFEST.index("[[trials]]") : MANIFEST.index("[table]")]
    one = trial.replace("[10, 20]", "10").replace('["untargeted", "first:1"]', '"low"')
    # Training diverges: its loss is no number.
    broken = one.replace("peak_learning_rate = 0.003", "peak_learning_rate = 1e9")
    text = MANIFEST.replace(trial, trial + broken + one)
    arguments = flags(write_manifest(text, "broken"), corpus, cache, workdir)
    done = launch_here("sweep", *arguments)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith('error: penalty spchcmd "low"')
    assert "FloatingPointError" in line
    log = Path(line.partition("(log: ")[2].rstrip(")"))
    assert "Traceback" in log.read_text()
    rows = table_of(workdir, "broken")["rows"]
    low = next(row for row in rows if row["target"] == "low")
    assert (low["num_done"], low["num_trials"]) == (1, 2)
    assert sum(row["num_done"] for row in rows) == 5
    assert "missing: penalty" in (workdir / "tables" / "broken.md").read_text()
    again = launch_here("sweep", *arguments)
    assert again.returncode == 1
    assert "6 trials, 5 done" in again.stdout


def test_moved_recordings_and_others(finished, corpus, cache, tmp_path):
    workdir, path, _ = finished
    moved = tmp_path / "moved"
    shutil.copytree(corpus, moved)
    there = launch_here("sweep", *flags(path, moved, cache, workdir))
    assert (there.returncode, there.stderr) == (0, "")
    assert "nothing to do" in there.stdout
    others = write_tones(tmp_path / "others", seed=1)
    refused = launch_here("sweep", *flags(path, others, cache, workdir))
    assert refused.returncode == 2
    assert "other recordings" in refused.stderr
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "more", "message"),
    [
        (("first:1", "cow"), (), "trials[0].target: expected one of high, low, mid"),
        (("attack.max_passes", "nonsense"), (), "trials[0]: --set: 'nonsense'"),
        (("max_passes = 3", 'max_passes = "x"'), (), "expected int, got 'x'"),
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
def test_mistakes_are_one_line(
    corpus, cache, tmp_path, write_manifest, change, more, message
):
    path = write_manifest(MANIFEST.replace(*change))
    if message == "--data_dir":
        # Twice the flag, without the corpora that they are of.
        corpus = tmp_path
    done = launch_here("sweep", *flags(path, corpus, cache, tmp_path / "w", *more))
    assert done.returncode == 2, done.stdout
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


def test_200_finished_trials(tmp_path, write_manifest):
    path = write_manifest(MANIFEST.replace("seed = 4", f"seed = {list(range(50))}"))
    planned = plan_built_in(path, tmp_path / "w")
    assert len(planned) == 200
    for trial in planned:
        finish(trial, tmp_path / "w")
    done = launch_here("sweep", f"--manifest={path}", f"--workdir={tmp_path / 'w'}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "200 trials, 200 done" in done.stdout
    assert "nothing to do" in done.stdout
    # No corpus was loaded.
    assert "synthetic_speech" not in done.stdout
    assert [row["num_done"] for row in table_of(tmp_path / "w")["rows"]] == [50] * 4


def test_an_attack_that_could_not_go_on_is_a_failure(tmp_path, write_manifest):
    path = write_manifest(MANIFEST)
    planned = plan_built_in(path, tmp_path / "w")
    for trial in planned[1:]:
        finish(trial, tmp_path / "w")
    finish(planned[0], tmp_path / "w", stop_reason="non_finite_logits")
    arguments = (f"--manifest={path}", f"--workdir={tmp_path / 'w'}")
    done = launch_here("sweep", *arguments)
    assert done.returncode == 1
    assert "stopped in pass 3: non finite logits" in done.stderr
    rows = table_of(tmp_path / "w")["rows"]
    assert [row["test.asr"] for row in rows] == [None, 0.8, 0.8, 0.8]
