"""A stored perturbation judged again."""

import json
import shutil

from launching import launch, launch_here
from tones import write_tones


def test_finds_what_the_run_found(finished_run):
    flags = (
        f"--perturbation={finished_run.workdir}",
        f"--cache_dir={finished_run.cache}",
    )
    done = launch("evaluate", *flags)
    assert (done.returncode, done.stderr) == (0, "")
    assert "found spchcmd trained" in done.stdout
    result = json.loads((finished_run.workdir / "result.json").read_text())
    folder = finished_run.workdir / "evaluations" / result["victim"]["name"]
    evaluation = json.loads((folder / "evaluation.json").read_text())
    for key in ("test", "control", "clean_accuracy", "victim", "seed", "target"):
        assert evaluation[key] == result[key]
    assert f"test ASR {result['test']['asr']:.3f}" in done.stdout
    unfit = launch_here("evaluate", *flags, "--model=cnn_rand")
    assert (unfit.returncode, unfit.stderr.count("\n")) == (2, 1)
    assert "expected 50999 samples at 16000 Hz, as cnn_rand takes" in unfit.stderr


def test_as_many_test_clips_as_the_run(finished_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run.workdir, run)
    config = json.loads((run / "config.json").read_text()) | {"num_test_clips": 6}
    (run / "config.json").write_text(json.dumps(config))
    folders = (f"--workdir={run}", f"--cache_dir={finished_run.cache}")
    done = launch("evaluate", f"--perturbation={run}", *folders)
    assert (done.returncode, done.stderr) == (0, "")
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert evaluation["test"]["num_clips"] == 6


def test_other_recordings(finished_run, tmp_path):
    # As many as of the run, so that its programs serve.
    other = write_tones(tmp_path / "other", seed=1)
    flags = (
        *(f"--perturbation={finished_run.workdir}", f"--data_dir={other}"),
        *(f"--cache_dir={finished_run.cache}", f"--workdir={tmp_path / 'evaluation'}"),
    )
    done = launch("evaluate", *flags)
    assert (done.returncode, done.stderr) == (0, "")
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
    refused = launch_here("evaluate", *flags)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "its target: expected one of deep" in refused.stderr
    assert "'low'" in refused.stderr


def test_mistakes_are_one_line(tmp_path):
    for flags, message in (
        ((), "--perturbation: expected the work directory"),
        ((f"--perturbation={tmp_path}",), "has no config.json"),
    ):
        done = launch_here("evaluate", *flags)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert message in done.stderr
