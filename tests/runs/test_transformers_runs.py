"""A checkpoint of transformers under attack, as a user starts it."""

import json

import numpy as np
import pytest
from launching import launch_here
from tones import write_tones

pytest.importorskip("transformers")
# It imports torch too.
tiny = pytest.importorskip("tiny_transformers")


@pytest.mark.slow
def test_a_run_and_its_evaluations(tmp_path):
    model, extractor = tiny.make("wav2vec2_layer_norm")
    for name in ("first", "second"):
        model.save_pretrained(tmp_path / name)
        extractor.save_pretrained(tmp_path / name)
    half = model.half()
    half.save_pretrained(tmp_path / "second")
    corpus = write_tones(tmp_path / "tones")
    workdir = tmp_path / "run"
    command = (
        "run",
        "--method=penalty",
        f"--model={tmp_path / 'first'}",
        "--dataset=folder",
        f"--data_dir={corpus}",
        "--num_attack_clips=12",
        "--set=max_passes=3",
        "--set=learning_rate=0.02",
        "--nochannel_table",
        f"--cache_dir={tmp_path / 'cache'}",
        f"--workdir={workdir}",
    )
    done = launch_here(*command)
    assert done.returncode == 0, done.stderr
    assert "first is trained already: 3 classes, clips of 16000 samples" in done.stdout
    config = json.loads((workdir / "config.json").read_text())
    # The median of the recordings.
    assert config["clip_samples"] == config["own_model"]["num_samples"] == 16_000
    assert np.load(workdir / "perturbation.npy").shape == (16_000,)
    result = json.loads((workdir / "result.json").read_text())
    # Once more it is the same run.
    assert launch_here(*command).returncode == 0
    again = launch_here("evaluate", f"--perturbation={workdir}", *command[9:10])
    assert again.returncode == 0, again.stderr
    (folder,) = (workdir / "evaluations").iterdir()
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert evaluation["test"] == result["test"]
    # On another one, whose clips are as long as the perturbation.
    other = launch_here(
        "evaluate",
        f"--perturbation={workdir}",
        f"--model={tmp_path / 'second'}",
        *command[9:10],
    )
    assert other.returncode == 0, other.stderr
    assert "weights stored as float16; the network runs in float32" in other.stdout
    tone = next((corpus / "low").glob("*.wav"))
    applied = launch_here(
        "apply",
        "--predict",
        f"--perturbation={workdir}",
        *command[9:10],
        str(tone),
        str(tmp_path / "out.wav"),
    )
    assert applied.returncode == 0, applied.stderr
    short = launch_here(
        *command[:-1],
        "--clip_samples=8000",
        "--num_test_clips=3",
        f"--workdir={tmp_path / 'short'}",
    )
    assert short.returncode == 0, short.stderr
    assert "clips of 8000 samples" in short.stdout


@pytest.mark.slow
def test_one_label_of_several(tmp_path):
    model, extractor = tiny.make("ast", problem_type="multi_label_classification")
    model.save_pretrained(tmp_path / "ast")
    extractor.save_pretrained(tmp_path / "ast")
    command = (
        "run",
        "--method=penalty",
        f"--model={tmp_path / 'ast'}",
        "--dataset=folder",
        f"--data_dir={write_tones(tmp_path / 'tones')}",
        "--num_attack_clips=12",
        "--set=max_passes=2",
        f"--cache_dir={tmp_path / 'cache'}",
        f"--workdir={tmp_path / 'run'}",
    )
    unsaid = launch_here(*command)
    assert unsaid.returncode == 2
    assert "--label: expected one of high, low, mid to be detected" in unsaid.stderr
    # It fires on every tone, so only misses can be made.
    done = launch_here(*command, "--label=low")
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["own_model"]["class_names"] == ["no low", "low"]
    assert config["clip_samples"] == 10_480
