"""The launcher of runs: a whole run, kills, mistakes, faults."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from launching import QUICK, command, kill_at, launch, launch_here

from uap_jax import attacks, checkpoints, files
from uap_jax.console import Console
from uap_jax.runs import victim
from uap_jax.runs.config import RunConfig
from uap_jax.runs.resolve import resolve
from uap_jax.runs.run import LOG, run

SIGN_STEPS = pathlib.Path(__file__).parents[1] / "attacks" / "sign_steps.py"


def flags_for(finished, workdir, *more, cache=None):
    return (
        *(*QUICK, f"--data_dir={finished.corpus}", f"--workdir={workdir}"),
        *(f"--cache_dir={cache or finished.cache}", *more),
    )


def own_flags(corpus, cache, workdir, *more):
    """A run on a trained classifier of tones, which compiles in seconds."""
    return (
        *("--model=own_networks:named", "--dataset=speech_commands", "--scaling=peak"),
        *(f"--data_dir={corpus}", f"--cache_dir={cache}", f"--workdir={workdir}"),
        *("--num_attack_clips=12", "--target=low", "--nochannel_table", *more),
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
    passes = [json.loads(line)["pass"] for line in lines]
    assert passes == list(range(1, result["num_passes"] + 1))
    for name in ("perturbation.wav", "report.html", "examples"):
        assert (workdir / name).exists()
    clips = np.load(workdir / "test_clips.npz")
    assert len(np.unique(clips["index"])) == result["test"]["num_clips"]
    assert np.mean(clips["success"]) == pytest.approx(result["test"]["asr"])
    stored = checkpoints.load_perturbation(workdir / "checkpoints" / "perturbation")
    np.testing.assert_array_equal(stored.value, np.load(workdir / "perturbation.npy"))
    assert (stored.space, stored.scaling) == ("tanh", "peak")
    assert stored.sample_rate_hz == 16_000
    log = (workdir / LOG).read_text()
    assert "training spchcmd" in log and "pass 3/3" in log


def test_attack_beats_noise_of_its_level(corpus, cache, tmp_path):
    settings = ("radius=1", "max_passes=2", "ddn.num_steps=20", "ddn.init_norm=10")
    done = launch_here(
        "run",
        "--method=greedy",
        *own_flags(corpus, cache, tmp_path / "run", "--num_attack_clips=20"),
        *(f"--set={setting}" for setting in settings),
    )
    assert (done.returncode, done.stderr) == (0, "")
    result = read(tmp_path / "run" / "result.json")
    assert result["method"] == "greedy"
    assert result["test"]["asr"] >= result["control"]["asr"] + 0.4
    assert result["test"]["asr_waveform"] >= result["control"]["asr"] + 0.4
    value = np.load(tmp_path / "run" / "perturbation.npy")
    assert 0 < np.max(np.abs(value)) <= 1
    config = read(tmp_path / "run" / "config.json")
    assert (config["attack"]["radius"], config["attack"]["norm"]) == (1.0, "linf")
    assert config["attack"]["ddn"]["num_steps"] == 20
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        entry = json.loads(line)
        assert entry["visited"] + entry["skipped"] == 20
    assert "clips visited by DDN" in (tmp_path / "run" / "report.html").read_text()


def test_custom_method_has_its_name_in_the_report(corpus, cache, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(SIGN_STEPS.parent)
    flags = own_flags(corpus, cache, tmp_path / "run", "--set=max_passes=2")
    done = launch_here("run", "--method=sign_steps:SIGN_STEPS", *flags)
    assert (done.returncode, done.stderr) == (0, "")
    assert "sign_steps attack on 12 clips" in done.stdout
    assert read(tmp_path / "run" / "result.json")["method"] == "sign_steps"
    assert "sign_steps" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.slow
def test_single_clip_of_one_class(corpus, cache, tmp_path):
    single = ("--num_attack_clips=1", "--attack_class=mid", "--num_test_clips=6")
    flags = own_flags(corpus, cache, tmp_path / "run", *single, "--set=max_passes=1")
    done = launch_here("run", *flags)
    assert (done.returncode, done.stderr) == (0, "")
    assert 'penalty attack on 1 clips of "mid", towards "low"' in done.stdout
    result = read(tmp_path / "run" / "result.json")
    assert (result["attack_class"], result["train"]["num_clips"]) == ("mid", 1)
    assert result["test"]["num_clips"] == 6
    assert len(np.load(tmp_path / "run" / "test_clips.npz")["index"]) == 6
    assert read(tmp_path / "run" / "config.json")["num_test_clips"] == 6


def test_same_command_again_reports(finished_run):
    workdir = finished_run.workdir
    before = (workdir / "result.json").read_bytes()
    again = launch_here("run", *flags_for(finished_run, workdir))
    assert (again.returncode, again.stderr) == (0, "")
    assert "this run is finished" in again.stdout
    assert (workdir / "result.json").read_bytes() == before
    other = launch_here("run", *flags_for(finished_run, workdir, "--target=mid"))
    assert_mistake(other, "--workdir: holds a run with other settings (target: low")


def test_train_finds_the_model_of_a_run(finished_run):
    kept = ("--model", "--scaling", "--seed", "--set=training")
    flags = [flag for flag in QUICK if flag.startswith(kept)]
    folders = (f"--data_dir={finished_run.corpus}", f"--cache_dir={finished_run.cache}")
    done = launch_here("train", *flags, *folders)
    assert (done.returncode, done.stderr) == (0, "")
    result = read(finished_run.workdir / "result.json")
    assert f"models/{result['victim']['name']}" in done.stdout
    accuracy = result["victim"]["validation_accuracy"]
    assert f"validation accuracy {accuracy:.3f}" in done.stdout
    assert "training spchcmd" not in done.stdout


@pytest.mark.slow
def test_killed_during_the_attack(finished_run, tmp_path):
    flags = flags_for(finished_run, tmp_path)
    kill_at("pass 1/", "run", *flags)
    assert not (tmp_path / "result.json").exists()
    assert launch("run", *flags).returncode == 0
    assert_same_result(finished_run.workdir, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("marker", ["epoch 2/", "epoch 6/", "validation accuracy"])
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
        (("--method=greedy", "--asr_levels=0.5"), "use decoupled"),
        (("--target=nobody",), "--target: expected one of _silence_, "),
        (("--attack_class=nobody",), "--attack_class: expected one of _silence_, "),
        (("--dataset=synthetic_urban",), "has clips of 50999 samples"),
    ],
)
def test_mistakes_are_one_line(flags, message, tmp_path):
    folders = (f"--workdir={tmp_path / 'w'}", f"--cache_dir={tmp_path}")
    assert_mistake(launch_here("run", *folders, *flags), message)
    assert not list(tmp_path.rglob("*.npy")), "rendered or decoded before"


def assert_mistake(done, message):
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


def test_unknown_class_is_one_line_of_a_process(finished_run, tmp_path):
    done = launch("run", *flags_for(finished_run, tmp_path / "w", "--target=x"))
    assert_mistake(done, "--target: expected one of high, low, mid")
    # A mistyped class fixes no settings.
    flags = flags_for(finished_run, tmp_path / "w", "--attack_class=x")
    assert_mistake(launch_here("run", *flags), "--attack_class: expected one of high")


def test_bad_folders(finished_run, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    blocked = launch_here("run", *flags_for(finished_run, tmp_path / "file" / "w"))
    assert_mistake(blocked, str(tmp_path / "file"))
    empty = finished_run._replace(corpus=tmp_path / "empty")
    empty.corpus.mkdir()
    flags = flags_for(empty, tmp_path / "w")
    assert_mistake(launch_here("run", *flags), str(empty.corpus))
    with files.locked(tmp_path / "held", wait=False):
        done = launch_here("run", *flags_for(finished_run, tmp_path / "held"))
    assert_mistake(done, "in use by another process")


@pytest.mark.parametrize("error", [RuntimeError("two\nlines"), KeyError("missing")])
def test_a_fault_is_one_line_and_its_traceback_in_the_log(
    corpus, cache, tmp_path, monkeypatch, error
):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(victim, "prepare", fail)
    done = launch_here("run", *own_flags(corpus, cache, tmp_path / "run"))
    log = tmp_path / "run" / LOG
    message = " ".join(str(error).split())
    line = f"error: {type(error).__name__}: {message} (log: {log})\n"
    assert (done.returncode, done.stderr) == (1, line)
    assert "Traceback (most recent call last)" in log.read_text()
    assert "in fail" in log.read_text()


def test_an_interrupt_says_how_to_resume(corpus, cache, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(victim, "prepare", interrupt)
    done = launch_here("run", *own_flags(corpus, cache, tmp_path / "run"))
    assert done.returncode == 130
    assert done.stderr == "error: interrupted; run the same command to resume\n"


def config_of(corpus, target, **given):
    config = RunConfig(
        model="own_networks:named",
        dataset="speech_commands",
        data_dir=str(corpus),
        scaling="peak",
        target=target,
        num_attack_clips=12,
        overrides=("max_passes=2", "learning_rate=0.05"),
        channel_table=False,
        **given,
    )
    return resolve(config)


@pytest.mark.slow
def test_a_group_is_its_runs(corpus, cache, tmp_path, monkeypatch):
    """Each run of a group has the result that it has alone, or its own error."""
    targets = ("low", "mid", "low", "x")
    configs = [config_of(corpus, target) for target in targets]
    folders = [tmp_path / name for name in ("a", "b", "held", "c")]

    def carry_out(configs, folders, **settings):
        consoles = [Console(outer=Console()) for _ in configs]
        return run(configs, folders, cache_dir=cache, consoles=consoles, **settings)

    with files.locked(folders[2], wait=False):
        results = carry_out(configs, folders, width=2)
    assert [type(result).__name__ for result in results[2:]] == [
        "InUseError",
        "UsageError",
    ]
    again = carry_out(configs[:2], folders[:2])
    assert again == results[:2]
    (alone,) = carry_out(configs[:1], [tmp_path / "alone"])
    assert alone["num_passes"] == results[0]["num_passes"] == 2
    assert alone["test"]["snr_db"] == pytest.approx(results[0]["test"]["snr_db"], 0.01)

    def fail(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(attacks, "advance_together", fail)
    one_by_one = [tmp_path / name for name in ("d", "e")]
    results = carry_out(configs[:2], one_by_one, width=2)
    assert results[0]["test"] == alone["test"]
    log = (one_by_one[0] / LOG).read_text()
    assert "batching failed (RuntimeError: out of memory); running one at a" in log
    assert "Traceback" in log


def test_help_loads_nothing_heavy():
    script = (
        "import sys, uap_jax.experiments.run as _;"
        "print([m for m in ('orbax', 'librosa', 'torch') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
    shown = launch_here("run", "--help")
    assert shown.returncode == 0 and "--target" in shown.stdout


def test_commands_are_listed_and_dispatched():
    listed = launch_cli()
    assert listed.returncode == 0
    for name in ("run", "train", "evaluate", "apply", "sweep", "report", "download"):
        assert f"\n  {name} " in listed.stdout
    unknown = launch_cli("nonsense")
    assert unknown.returncode == 2 and "got 'nonsense'" in unknown.stderr
    mistake = launch_cli("run", "--seed=-1")
    assert_mistake(mistake, "seed")


def launch_cli(*arguments):
    done = [sys.executable, "-m", "uap_jax.experiments.cli", *arguments]
    return subprocess.run(done, capture_output=True, text=True, check=False)
