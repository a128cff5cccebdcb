"""The launcher in a process of its own: a whole run, kills, mistakes."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import wave

import numpy as np
import pytest

WORDS = {"high": 1500.0, "low": 300.0, "mid": 700.0}
NUM_SPEAKERS = 14
QUICK_VICTIM = (
    *("--model=spchcmd", "--scaling=peak", "--seed=3", "--num_attack_clips=40"),
    *("--set=training.num_clips_seen=2600", "--set=training.batch_size=13"),
)
QUICK = (
    *("--method=penalty", *QUICK_VICTIM, "--set=attack.batch_size=20"),
    *("--set=max_passes=12", "--set=target_asr=1.0", "--set=learning_rate=0.0005"),
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Tones as words, in the layout of Speech Commands with lists."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    lists = {"validation_list.txt": [], "testing_list.txt": []}
    time_s = np.arange(16_000) / 16_000
    for word, frequency_hz in WORDS.items():
        (folder / word).mkdir()
        for speaker in range(NUM_SPEAKERS):
            for take in range(2):
                name = f"{word}/{speaker:08x}_nohash_{take}.wav"
                tone = np.sin(2 * np.pi * frequency_hz * rng.uniform(0.9, 1.1) * time_s)
                sound = 0.3 * tone + 0.02 * rng.standard_normal(16_000)
                with wave.open(str(folder / name), "wb") as file:
                    file.setparams((1, 2, 16_000, 0, "NONE", ""))
                    file.writeframes((32767 * sound).astype("<i2").tobytes())
                if speaker < 3:
                    lists["validation_list.txt"].append(name)
                elif speaker < 6:
                    lists["testing_list.txt"].append(name)
    for name, lines in lists.items():
        (folder / name).write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def command(*flags):
    return [sys.executable, "-m", "uap_jax.experiments.run", *flags]


def launch(*flags, timeout=300):
    return subprocess.run(
        command(*flags), capture_output=True, text=True, timeout=timeout, check=False
    )


def flags_for(corpus, cache, workdir, *more):
    return (
        *QUICK,
        f"--data_dir={corpus}",
        f"--cache_dir={cache}",
        f"--workdir={workdir}",
        *more,
    )


@pytest.fixture(scope="module")
def finished(corpus, cache, tmp_path_factory):
    """The work directory of a run that nothing disturbed, and what it said."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    done = launch(*flags_for(corpus, cache, workdir, "--target=low"))
    assert done.returncode == 0, done.stderr
    return workdir, done


def test_whole_run_leaves_everything(finished):
    workdir, done = finished
    assert done.stderr == ""
    result = json.loads((workdir / "result.json").read_text())
    assert result["clean_accuracy"] >= 0.9
    assert result["test"]["num_clips"] == 3 * 3 * 2
    assert result["train"]["num_clips"] == 40
    assert result["num_passes"] == 12 or result["converged"]
    assert set(result["seconds"]) == {"train_model", "attack", "evaluate", "compile"}
    for part in ("asr", "asr_ci95", "asr_clean_correct", "accuracy_perturbed"):
        assert part in result["test"]
    config = json.loads((workdir / "config.json").read_text())
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


def test_stored_perturbation_reads_back(finished):
    from uap_jax import checkpoints

    workdir, _ = finished
    stored = checkpoints.load_perturbation(workdir / "checkpoints" / "perturbation")
    np.testing.assert_array_equal(stored.value, np.load(workdir / "perturbation.npy"))
    assert (stored.space, stored.scaling) == ("tanh", "peak")
    assert stored.sample_rate_hz == 16_000


def test_greedy_run_of_the_same_victim(finished, corpus, cache, tmp_path):
    _, penalty = finished
    assert "training spchcmd" in penalty.stdout
    done = launch(
        *("--method=greedy", *QUICK_VICTIM, "--set=ddn.num_steps=20"),
        *(f"--data_dir={corpus}", f"--cache_dir={cache}", f"--workdir={tmp_path}"),
        *("--target=low", "--set=max_passes=2"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "found spchcmd trained" in done.stdout
    assert "visited" in done.stdout
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["method"] == "greedy"
    value = np.load(tmp_path / "perturbation.npy")
    assert 0 < np.max(np.abs(value)) <= np.float32(0.12)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["attack"]["radius"], config["attack"]["norm"]) == (0.12, "linf")
    assert config["attack"]["ddn"]["num_steps"] == 20
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        entry = json.loads(line)
        assert entry["visited"] + entry["skipped"] == 40
    assert "clips visited by DDN" in (tmp_path / "report.html").read_text()


def test_single_clip_of_one_class(finished, corpus, cache, tmp_path):
    quick = ("--method=penalty", *QUICK_VICTIM, "--set=max_passes=2")
    folders = (f"--data_dir={corpus}", f"--cache_dir={cache}", f"--workdir={tmp_path}")
    single = ("--num_attack_clips=1", "--attack_class=mid")
    done = launch(*quick, *folders, *single, "--target=low")
    assert (done.returncode, done.stderr) == (0, "")
    assert 'penalty attack on 1 clips of "mid", towards "low"' in done.stdout
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["attack_class"], result["train"]["num_clips"]) == ("mid", 1)
    unknown = launch(
        *quick, *folders[:2], f"--workdir={tmp_path}/w", "--attack_class=x"
    )
    assert unknown.returncode == 2
    assert "--attack_class: expected one of high, low, mid" in unknown.stderr


def test_same_command_again_reports(finished, corpus, cache):
    workdir, _ = finished
    before = (workdir / "result.json").read_bytes()
    again = launch(*flags_for(corpus, cache, workdir, "--target=low"))
    assert again.returncode == 0
    assert "this run is finished" in again.stdout
    assert (workdir / "result.json").read_bytes() == before


def test_other_settings_in_the_same_folder_are_refused(finished, corpus, cache):
    workdir, _ = finished
    other = launch(*flags_for(corpus, cache, workdir, "--target=mid"))
    assert other.returncode == 2
    assert other.stderr.startswith("error: --workdir")
    assert other.stderr.count("\n") == 1


def kill_at(flags, marker):
    """Starts a run and kills it when a line with the marker appears."""
    with subprocess.Popen(
        command(*flags), stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        seen = any(marker in line for line in process.stdout)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert seen, f"the run ended without {marker!r}"


def test_killed_during_the_attack(finished, corpus, cache, tmp_path):
    workdir, _ = finished
    flags = flags_for(corpus, cache, tmp_path / "killed", "--target=low")
    kill_at(flags, "pass 3/")
    assert not (tmp_path / "killed" / "result.json").exists()
    assert launch(*flags).returncode == 0
    assert_same_result(workdir, tmp_path / "killed")


@pytest.mark.slow
@pytest.mark.parametrize("marker", ["epoch 2/", "epoch 40/", "validation clips"])
def test_killed_during_training(finished, corpus, tmp_path, marker):
    workdir, _ = finished
    flags = flags_for(corpus, tmp_path / "cache", tmp_path / "killed", "--target=low")
    kill_at(flags, marker)
    assert launch(*flags).returncode == 0
    assert_same_result(workdir, tmp_path / "killed")


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.2, 0.4, 0.6, 0.8])
def test_killed_at_any_time(finished, corpus, cache, tmp_path, share):
    workdir, _ = finished
    flags = flags_for(corpus, cache, tmp_path / "probe", "--target=low")
    started = time.monotonic()
    assert launch(*flags).returncode == 0
    whole_s = time.monotonic() - started
    flags = flags_for(corpus, cache, tmp_path / "killed", "--target=low")
    with subprocess.Popen(command(*flags), start_new_session=True) as process:
        time.sleep(share * whole_s)
        os.killpg(process.pid, signal.SIGKILL)
    assert launch(*flags).returncode == 0
    assert_same_result(workdir, tmp_path / "killed")


def assert_same_result(one, other):
    np.testing.assert_array_equal(
        np.load(one / "perturbation.npy"), np.load(other / "perturbation.npy")
    )
    results = [
        json.loads((folder / "result.json").read_text()) for folder in (one, other)
    ]
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
    done = launch(f"--workdir={tmp_path / 'w'}", f"--cache_dir={tmp_path}", *flags)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


def test_unknown_class_and_bad_folders(corpus, cache, tmp_path):
    flags = flags_for(corpus, cache, tmp_path / "w", "--target=nonsense")
    unknown = launch(*flags)
    assert unknown.returncode == 2
    assert "high, low, mid" in unknown.stderr
    (tmp_path / "file").write_text("not a folder")
    blocked = launch(*flags_for(corpus, cache, tmp_path / "file" / "w"))
    assert blocked.returncode == 2
    assert blocked.stderr.count("\n") == 1
    (tmp_path / "empty").mkdir()
    empty = launch(*flags_for(tmp_path / "empty", cache, tmp_path / "w2"))
    assert empty.returncode == 2
    assert str(tmp_path / "empty") in empty.stderr
    assert empty.stderr.count("\n") == 1


def test_help_is_quick_and_loads_nothing_heavy():
    script = (
        "import sys, uap_jax.experiments.run as _;"
        "print([m for m in ('jax', 'flax', 'orbax', 'librosa') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
    assert "--target" in launch("--help").stdout
