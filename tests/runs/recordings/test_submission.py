"""Submissions: what a model hears in clips without labels, block by block."""

import csv

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uap_jax.attacks import Perturbation
from uap_jax.audio.files import write_wav
from uap_jax.console import Console
from uap_jax.data import tfsr
from uap_jax.data.dataset import Dataset
from uap_jax.data.speech_commands import KAGGLE12
from uap_jax.errors import UsageError
from uap_jax.evaluation import wilson_interval
from uap_jax.evaluation.success import BLOCK_SIZE, PART_SIZE
from uap_jax.models import Classifier
from uap_jax.runs.config import RunConfig
from uap_jax.runs.corpus import Clips
from uap_jax.runs.evaluate import Evaluator
from uap_jax.runs.recordings import submission
from uap_jax.runs.victim import Victim

NUM_SAMPLES, RATE_HZ = 64, 16_000
TEMPLATES = np.random.default_rng(0).standard_normal((len(KAGGLE12), NUM_SAMPLES))
VARIABLES = {"templates": jnp.asarray(TEMPLATES, jnp.float32)}
TARGET = KAGGLE12.index("go")
# Two blocks and some more; classes one after the other.
NUM_CLIPS = 2 * BLOCK_SIZE + 9


def logits(variables, x):
    assert x.shape[0] == PART_SIZE
    return (x - 0.5) @ variables["templates"].T


class Log(Console):
    def __init__(self):
        super().__init__()
        self.lines, self.steps = [], []

    def say(self, line):
        self.lines.append(line)

    def progress(self, what, done, total):
        self.steps.append((what, done, total))


@pytest.fixture
def folder(tmp_path):
    """Clips of all classes, with one in seven too near to "go" to stay."""
    folder = tmp_path / "data" / "test" / "audio"
    folder.mkdir(parents=True)
    for index in range(NUM_CLIPS):
        clip = 0.1 * TEMPLATES[index % len(KAGGLE12)]
        if index % 7 == 0:
            clip = clip + 0.09 * TEMPLATES[TARGET]
        name = f"clip_{index:03d}.wav"
        write_wav(folder / name, np.clip(clip, -1, 1), sample_rate_hz=RATE_HZ)
    return folder


def write(folder, workdir, *, target=TARGET, strict=False, **changes):
    names = np.array(["x"])
    dataset = Dataset(
        name="tfsr",
        clips=np.zeros((1, NUM_SAMPLES), np.int16),
        labels=np.zeros(1, np.int32),
        class_names=KAGGLE12,
        groups=names,
        names=names,
        sample_rate_hz=RATE_HZ,
        fingerprint="toy",
    )
    settings = {
        "dataset": "tfsr",
        "data_dir": str(folder.parents[1]),
        "scaling": "fixed",
        "num_test_clips": None,
    }
    value = jnp.asarray(0.02 * TEMPLATES[TARGET], jnp.float32)
    log = Log()
    workdir.mkdir(exist_ok=True)
    victim = Victim(Classifier(logits, VARIABLES, NUM_SAMPLES, RATE_HZ), {}, 0.0)
    clips = Clips(dataset, target, np.array([0]), np.array([0]))
    config = RunConfig(**settings | changes)
    evaluator = Evaluator(config, clips, victim, 1.0, jax.random.key(0), log)
    found = submission.write_submissions(
        evaluator, Perturbation(value, space="signal"), workdir, strict=strict
    )
    return found, log


def read(path):
    header, *rows = csv.reader(path.read_text().splitlines())
    assert header == ["fname", "label"]
    return dict(rows)


def labels_of(folder, *, perturbed):
    """What NumPy hears."""
    labels = {}
    for index, path in enumerate(tfsr.unlabelled_clips(folder.parents[1])):
        clip = 0.1 * TEMPLATES[index % len(KAGGLE12)]
        clip = clip + (index % 7 == 0) * 0.09 * TEMPLATES[TARGET]
        x = 0.5 + 0.5 * np.clip(clip, -1, 1)
        if perturbed:
            x = np.clip(x + 0.02 * TEMPLATES[TARGET], 0, 1)
        scores = TEMPLATES @ (x - 0.5)
        labels[path.name] = tfsr.submission_label(KAGGLE12[np.argmax(scores)])
    return labels


@pytest.mark.parametrize("target", [None, TARGET])
def test_both_submissions(folder, tmp_path, target):
    found, log = write(folder, tmp_path / "run", target=target)
    clean = labels_of(folder, perturbed=False)
    perturbed = labels_of(folder, perturbed=True)
    assert read(tmp_path / "run" / "submission_clean.csv") == clean
    assert read(tmp_path / "run" / "submission_perturbed.csv") == perturbed
    assert set(clean.values()) == {name.strip("_") for name in KAGGLE12}
    fooled = [
        perturbed[name] != clean[name] if target is None else perturbed[name] == "go"
        for name in clean
    ]
    assert 0 < sum(fooled) < NUM_CLIPS
    assert found == {
        "asr": sum(fooled) / NUM_CLIPS,
        "asr_ci95": list(wilson_interval(sum(fooled), NUM_CLIPS)),
        "num_non_finite": 0,
        "num_clips": NUM_CLIPS,
        "num_skipped": 0,
    }
    assert log.steps[-1] == ("submission", NUM_CLIPS, NUM_CLIPS)
    assert f"on {NUM_CLIPS} clips without labels" in log.lines[-1]


def test_clips_that_cannot_be_read(folder, tmp_path):
    bad = [f"clip_{index:03d}.wav" for index in range(12, 24)]
    for name in bad:
        (folder / name).write_bytes(b"RIFF and no more")
    (folder / "clip_empty.wav").write_bytes(b"")
    found, log = write(folder, tmp_path / "run")
    assert (found["num_clips"], found["num_skipped"]) == (NUM_CLIPS - 12, 13)
    named = [line for line in log.lines if "submitted as silence" in line]
    assert len(named) == 10 and bad[0] in named[0]
    assert "13 of the clips without labels cannot be used" in log.lines
    expected = labels_of(folder, perturbed=True)
    labels = read(tmp_path / "run" / "submission_perturbed.csv")
    assert all(labels[name] == "silence" for name in (*bad, "clip_empty.wav"))
    good = sorted(set(expected) - {*bad, "clip_empty.wav"})
    assert [labels[name] for name in good] == [expected[name] for name in good]
    assert set(read(tmp_path / "run" / "submission_clean.csv")) == set(expected)
    with pytest.raises(UsageError, match=r"clip_012\.wav: cannot be read as audio"):
        write(folder, tmp_path / "strict", strict=True)
    assert not list((tmp_path / "strict").iterdir())


def test_no_clip_can_be_read(folder, tmp_path):
    for path in folder.iterdir():
        path.write_bytes(b"")
    with pytest.raises(UsageError, match=r"--data_dir: expected recordings in .*audio"):
        write(folder, tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())


def test_when_nothing_is_written(folder, tmp_path):
    for changes in (
        {"dataset": "speech_commands_kaggle12"},
        {"data_dir": str(tmp_path)},
        {"num_test_clips": 5},
    ):
        found, log = write(folder, tmp_path / "run", **changes)
        assert found is None and not log.steps
        assert bool(log.lines) == ("num_test_clips" in changes)
    assert not list((tmp_path / "run").iterdir())
