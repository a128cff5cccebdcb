"""A stored perturbation evaluated again."""

import json
import shutil

from launching import launch, launch_here
from tones import write_tones

from uap_jax.console import Console
from uap_jax.runs import evaluate


def read(path):
    return json.loads(path.read_text())


def test_evaluates_as_the_run(finished_run):
    flags = (
        f"--perturbation={finished_run.workdir}",
        f"--cache_dir={finished_run.cache}",
    )
    # In a process of its own, as the run: numbers are the same to the last bit.
    done = launch("evaluate", *flags)
    assert (done.returncode, done.stderr) == (0, "")
    assert "using spchcmd trained in" in done.stdout
    result = read(finished_run.workdir / "result.json")
    folder = finished_run.workdir / "evaluations" / result["victim"]["name"]
    evaluation = read(folder / "evaluation.json")
    for key in ("test", "control", "clean_accuracy", "victim", "seed", "target"):
        assert evaluation[key] == result[key]
    assert f"test ASR {result['test']['asr']:.3f}" in done.stdout
    unfit = launch_here("evaluate", *flags, "--model=cnn_rand")
    assert (unfit.returncode, unfit.stderr.count("\n")) == (2, 1)
    assert "expected 50999 samples at 16000 Hz, as cnn_rand takes" in unfit.stderr


def test_as_many_test_clips_as_the_run(finished_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run.workdir, run)
    config = read(run / "config.json") | {"num_test_clips": 6}
    (run / "config.json").write_text(json.dumps(config))
    folders = (f"--workdir={run}", f"--cache_dir={finished_run.cache}")
    done = launch_here("evaluate", f"--perturbation={run}", *folders)
    assert (done.returncode, done.stderr) == (0, "")
    assert read(run / "evaluation.json")["test"]["num_clips"] == 6


def test_other_recordings_and_another_model(finished_run, tmp_path):
    other = write_tones(tmp_path / "other", seed=1)
    flags = (
        *(f"--perturbation={finished_run.workdir}", f"--data_dir={other}"),
        *("--model=own_networks:named", "--seed=5"),
        *(f"--cache_dir={finished_run.cache}", f"--workdir={tmp_path / 'evaluation'}"),
    )
    done = launch_here("evaluate", *flags)
    assert (done.returncode, done.stderr) == (0, "")
    evaluation = read(tmp_path / "evaluation" / "evaluation.json")
    result = read(finished_run.workdir / "result.json")
    assert (evaluation["data_dir"], evaluation["seed"]) == (str(other), 5)
    assert evaluation["victim"]["training"] == "given"
    assert evaluation["test"].keys() == result["test"].keys()
    shutil.copytree(other, tmp_path / "deep")
    deep = tmp_path / "deep"
    (deep / "low").rename(deep / "deep")
    for name in ("validation_list.txt", "testing_list.txt"):
        text = (deep / name).read_text()
        (deep / name).write_text(text.replace("low/", "deep/"))
    flags = (
        *(f"--perturbation={finished_run.workdir}", f"--data_dir={deep}"),
        f"--cache_dir={finished_run.cache}",
    )
    refused = launch_here("evaluate", *flags)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "its target: expected one of deep" in refused.stderr
    assert "'low'" in refused.stderr


def test_clips_without_a_class_are_said(capsys):
    part = {"asr": 0.5, "asr_ci95": [0.1, 0.9], "num_clips": 5, "snr_db": 1.0}
    part |= {"snr_ac_db": 1.0, "asr_waveform": 0.5, "asr_shifted": 0.5}
    weak = {"asr": 0.0, "asr_ci95": [0.0, 0.05]}

    def said(ours, white, same):
        control = part | weak | white
        if same is not None:
            control["same_spectrum"] = part | weak | same
        evaluate.say_test({"test": part | ours, "control": control}, Console())
        return capsys.readouterr().out

    # The first as in results of before.
    for counts in (({}, {}, None), ({"num_non_finite": 0}, {}, {"num_non_finite": 0})):
        assert said(*counts).count("\n") == 2
    counted = said({"num_non_finite": 3}, {}, {"num_non_finite": 2})
    assert counted.count("\n") == 3
    assert (
        "never a success: 3 with the perturbation, 2 with noise of the same spectrum\n"
        in counted
    )


def test_what_a_control_explains_is_said(capsys):
    part = {"asr": 0.5, "asr_ci95": [0.4, 0.6], "num_clips": 99, "snr_db": 1.0}
    part |= {"snr_ac_db": 1.0, "asr_waveform": 0.5, "asr_shifted": 0.5}
    white = {"asr": 0.1, "asr_ci95": [0.05, 0.2]}
    control = white | {"same_spectrum": {"asr": 0.45, "asr_ci95": [0.35, 0.55]}}
    evaluate.say_test({"test": part, "control": control}, Console())
    out = capsys.readouterr().out
    assert "at the same RMS white noise 0.100, noise of the same spectrum 0.450" in out
    assert "the success is the colour's, not the waveform's" in out
    evaluate.say_test({"test": part, "control": white}, Console())
    out = capsys.readouterr().out
    assert "at the same RMS white noise 0.100\n" in out and "colour" not in out


def test_mistakes_are_one_line(tmp_path):
    for flags, message in (
        ((), "--perturbation: expected the work directory"),
        ((f"--perturbation={tmp_path}",), "has no config.json"),
    ):
        done = launch_here("evaluate", *flags)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert message in done.stderr
