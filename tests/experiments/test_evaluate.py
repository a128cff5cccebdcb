"""A stored perturbation judged again."""

import json
import subprocess
import sys

import pytest
from tones import write_tones

from uap_jax.experiments import evaluating
from uap_jax.experiments.console import UsageError


def launch(*flags):
    return subprocess.run(
        [sys.executable, "-m", "uap_jax.experiments.evaluate", *flags],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_finds_what_the_run_found(finished_run):
    flags = (
        f"--perturbation={finished_run.workdir}",
        f"--cache_dir={finished_run.cache}",
    )
    done = launch(*flags)
    assert (done.returncode, done.stderr) == (0, "")
    assert "found spchcmd trained" in done.stdout
    result = json.loads((finished_run.workdir / "result.json").read_text())
    folder = finished_run.workdir / "evaluations" / result["victim"]["name"]
    evaluation = json.loads((folder / "evaluation.json").read_text())
    for key in ("test", "control", "clean_accuracy", "victim", "seed", "target"):
        assert evaluation[key] == result[key]
    assert f"test ASR {result['test']['asr']:.3f}" in done.stdout
    unfit = launch(*flags, "--model=cnn_rand")
    assert (unfit.returncode, unfit.stderr.count("\n")) == (2, 1)
    assert "expected 50999 samples at 16000 Hz, as cnn_rand takes" in unfit.stderr


def test_other_recordings(finished_run, tmp_path):
    other = write_tones(tmp_path / "other", num_speakers=8, seed=1)

    def evaluate():
        return evaluating.evaluate(
            finished_run.workdir,
            data_dir=str(other),
            workdir=tmp_path / "evaluation",
            cache_dir=finished_run.cache,
        )

    assert evaluate() == 0
    path = tmp_path / "evaluation" / "evaluation.json"
    evaluation = json.loads(path.read_text())
    result = json.loads((finished_run.workdir / "result.json").read_text())
    assert evaluation["data_dir"] == str(other)
    assert evaluation["victim"]["name"] != result["victim"]["name"]
    assert evaluation["test"].keys() == result["test"].keys()
    (other / "low").rename(other / "deep")
    for name in ("validation_list.txt", "testing_list.txt"):
        text = (other / name).read_text()
        (other / name).write_text(text.replace("low/", "deep/"))
    with pytest.raises(UsageError, match=r"its target: expected one of deep.*'low'"):
        evaluate()


def test_mistakes_are_one_line(tmp_path):
    for flags, message in (
        ((), "--perturbation: expected the work directory"),
        ((f"--perturbation={tmp_path}",), "has no config.json"),
    ):
        done = launch(*flags)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert message in done.stderr
