"""A small sweep, and trials of it that were never run."""

from uap_jax import files
from uap_jax.console import Console
from uap_jax.sweeps import corpora, manifest, trials

# Training and attacks compile to the programs of `launching.QUICK`.
MANIFEST = """
name = "quick"
title = "A quick sweep"

[[trials]]
model = "spchcmd"
method = "penalty"
target = ["untargeted", "first:1"]
scaling = "peak"
seed = 4
num_attack_clips = 20

[trials.set]
attack.confidence = [10, 20]
attack.max_passes = 3
training.num_clips_seen = 300
training.batch_size = 10
training.peak_learning_rate = 0.003

[table]
kind = "mean"
rows = ["attack.confidence", "target"]
measures = ["test.asr", "train.asr", "test.snr_db", "num_passes"]
"""

RESULT = {
    "clean_accuracy": 0.9,
    "converged": True,
    "stop_reason": "converged",
    "num_passes": 2,
    "dataset": "synthetic_speech",
    "train": {"asr": 0.9, "num_clips": 20},
    "test": {"asr": 0.8, "num_clips": 18, "snr_db": 20.0},
    "control": {"asr": 0.1, "same_spectrum": {"asr": 0.2}},
    "hardware": {
        **{"device": "cpu", "platform": "cpu", "num_devices": 1},
        **{"processor": "some", "num_cores": 2},
    },
    "versions": {"uap_jax": "0", "jax": "0"},
}
CORPUS = {"fingerprint": "f00d", "class_names": ["a", "b"], "data_dir": None}
BUILT_IN = {
    "synthetic_speech-official-16000": CORPUS,
    "synthetic_urban-official-50999": CORPUS,
}


def plan_built_in(path, workdir, *, scale="paper"):
    """Plans trials on the built-in corpora without rendering them."""
    workdir.mkdir(exist_ok=True)
    files.write_json(workdir / "corpora.json", BUILT_IN)
    declared = manifest.load(path, scale=scale)
    context = corpora.Context(workdir, workdir)
    return trials.plan(declared, (corpora.CorpusFlags(),), context, Console())


def finish(trial, workdir, **changes):
    folder = trial.folder(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(folder / "result.json", RESULT | changes)
