"""The launcher of runs: a whole run, kills, mistakes."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from launching import QUICK, VICTIM, command, kill_at, launch, launch_here

from uap_jax import checkpoints


def flags_for(finished, workdir, *more, cache=None):
    return (
        *(*QUICK, f"--data_dir={finished.corpus}", f"--workdir={workdir}"),
        *(f"--cache_dir={cache or finished.cache}", *more),
    )


def read(path):
    return json.loads(path.read_text())


def test_whole_run_leaves_everything(finished_run):
    workdir = finished_run.workdir
    assert "training spchcmd" in finished_run.stdout
    result = read(workdir / "result.json")
    assert result["clean_accuracy"] >= 0.9
    assert result["test"]["num_clips"] == 3 * 3 * 2
    assert result["train"]["num_clips"] == 20
    assert result["num_passes"] == 3 or result["converged"]
    assert set(result["seconds"]) == {"train_model", "attack", "evaluate", "compile"}
    for part in ("asr", "asr_ci95", "asr_clean_correct", "accuracy_perturbed"):
        assert part in result["test"]
    config = read(workdir / "config.json")
    assert config["attack"]["learning_rate"] == 0.0005
    assert config["attack"]["penalty_coefficient"] == 0.15
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["pass"] for line in lines] == list(
        range(1, result["num_passes"] + 1)
    )
    for name in ("perturbation.npy", "perturbation.wav", "report.html", "examples"):
        assert (workdir / name).exists()
    clips = np.load(workdir / "test_clips.npz")
    assert len(np.unique(clips["index"])) == result["test"]["num_clips"]
    assert np.mean(clips["success"]) == pytest.approx(result["test"]["asr"])


def test_stored_perturbation_reads_back(finished_run):
    workdir = finished_run.workdir
    stored = checkpoints.load_perturbation(workdir / "checkpoints" / "perturbation")
    np.testing.assert_array_equal(stored.value, np.load(workdir / "perturbation.npy"))
    assert (stored.space, stored.scaling) == ("tanh", "peak")
    assert stored.sample_rate_hz == 16_000


def test_greedy_run_of_the_same_victim(finished_run, tmp_path):
    folders = flags_for(finished_run, tmp_path)[len(QUICK) :]
    done = launch(
        *(
            "run",
            "--method=greedy",
            *VICTIM,
            *folders,
            "--set=ddn.num_steps=10",
            "--set=ddn.init_norm=4",
        ),
        *("--target=low", "--set=max_passes=2", "--num_attack_clips=10"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "found spchcmd trained" in done.stdout
    assert "visited" in done.stdout
    result = read(tmp_path / "result.json")
    assert result["method"] == "greedy"
    value = np.load(tmp_path / "perturbation.npy")
    assert 0 < np.max(np.abs(value)) <= np.float32(0.12)
    config = read(tmp_path / "config.json")
    assert (config["attack"]["radius"], config["attack"]["norm"]) == (0.12, "linf")
    assert config["attack"]["ddn"]["num_steps"] == 10
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        entry = json.loads(line)
        assert entry["visited"] + entry["skipped"] == 10
    assert "clips visited by DDN" in (tmp_path / "report.html").read_text()


def test_single_clip_of_one_class(finished_run, tmp_path):
    single = ("--num_attack_clips=1", "--attack_class=mid", "--num_test_clips=6")
    done = launch("run", *flags_for(finished_run, tmp_path, *single))
    assert (done.returncode, done.stderr) == (0, "")
    assert 'penalty attack on 1 clips of "mid", towards "low"' in done.stdout
    result = read(tmp_path / "result.json")
    assert (result["attack_class"], result["train"]["num_clips"]) == ("mid", 1)
    assert result["test"]["num_clips"] == 6
    assert len(np.load(tmp_path / "test_clips.npz")["index"]) == 6
    assert read(tmp_path / "config.json")["num_test_clips"] == 6


def test_same_command_again_reports(finished_run):
    workdir = finished_run.workdir
    before = (workdir / "result.json").read_bytes()
    again = launch("run", *flags_for(finished_run, workdir))
    assert (again.returncode, again.stderr) == (0, "")
    assert "this run is finished" in again.stdout
    assert (workdir / "result.json").read_bytes() == before


def test_other_settings_in_the_same_folder_are_refused(finished_run):
    flags = flags_for(finished_run, finished_run.workdir, "--target=mid")
    other = launch_here("run", *flags)
    assert other.returncode == 2
    assert other.stderr.startswith("error: --workdir")
    assert other.stderr.count("\n") == 1


def test_killed_during_the_attack(finished_run, tmp_path):
    flags = flags_for(finished_run, tmp_path)
    kill_at("pass 1/", "run", *flags)
    assert not (tmp_path / "result.json").exists()
    assert launch("run", *flags).returncode == 0
    assert_same_result(finished_run.workdir, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("marker", ["epoch 2/", "epoch 10/", "validation clips"])
def test_killed_during_training(finished_run, tmp_path, marker):
    flags = flags_for(finished_run, tmp_path / "killed", cache=tmp_path / "cache")
    kill_at(marker, "run", *flags)
    assert launch("run", *flags).returncode == 0
    assert_same_result(finished_run.workdir, tmp_path / "killed")


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.2, 0.4, 0.6, 0.8])
def test_killed_at_any_time(finished_run, tmp_path, share):
    started = time.monotonic()
    assert launch("run", *flags_for(finished_run, tmp_path / "probe")).returncode == 0
    whole_s = time.monotonic() - started
    flags = flags_for(finished_run, tmp_path / "killed")
    with subprocess.Popen(command("run", *flags), start_new_session=True) as process:
        time.sleep(share * whole_s)
        os.killpg(process.pid, signal.SIGKILL)
    assert launch("run", *flags).returncode == 0
    assert_same_result(finished_run.workdir, tmp_path / "killed")


def assert_same_result(one, other):
    np.testing.assert_array_equal(
        np.load(one / "perturbation.npy"), np.load(other / "perturbation.npy")
    )
    results = [read(folder / "result.json") for folder in (one, other)]
    for key in ("test", "control", "train", "clean_accuracy", "num_passes"):
        assert results[0][key] == results[1][key]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--method=magic",), "penalty"),
        (("--model=resnet",), "spchcmd"),
        (("--scaling=loud",), "minmax"),
        (("--seed=-1",), "seed"),
        (("--nonsense=1",), "nonsense"),
        (("extra",), "extra"),
        (("--set=confidence=much",), "confidence"),
        (("--data_dir=/no/such/folder",), "/no/such/folder"),
    ],
)
def test_mistakes_are_one_line(flags, message, tmp_path):
    folders = (f"--workdir={tmp_path / 'w'}", f"--cache_dir={tmp_path}")
    assert_mistake(launch_here("run", *folders, *flags), message)


def assert_mistake(done, message):
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


def test_unknown_classes(finished_run, tmp_path):
    # In a process of its own nothing but the line may come either.
    done = launch("run", *flags_for(finished_run, tmp_path / "w", "--target=x"))
    assert_mistake(done, "--target: expected one of high, low, mid")
    done = launch_here("run", *flags_for(finished_run, tmp_path, "--attack_class=x"))
    assert_mistake(done, "--attack_class: expected one of high, low, mid")


def test_bad_folders(finished_run, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    blocked = launch_here("run", *flags_for(finished_run, tmp_path / "file" / "w"))
    assert_mistake(blocked, str(tmp_path / "file"))
    empty = finished_run._replace(corpus=tmp_path / "empty")
    empty.corpus.mkdir()
    assert_mistake(
        launch_here("run", *flags_for(empty, tmp_path / "w")), str(empty.corpus)
    )


def test_help_is_quick_and_loads_nothing_heavy():
    script = (
        "import sys, uap_jax.experiments.run as _;"
        "print([m for m in ('jax', 'flax', 'orbax', 'librosa') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
    assert "--target" in launch("run", "--help").stdout
