"""Sweeps on a local Ray cluster: work is given out, workers die."""

import collections
import importlib.util
import json
import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from launching import command, launch
from sweeps import MANIFEST

from uap_jax.console import Console
from uap_jax.errors import UsageError
from uap_jax.sweeps import execute, ray_executor, trials
from uap_jax.sweeps.corpora import Context

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs the extra sweep"
)


def trial(name, model="spchcmd"):
    settings = {"method": "penalty", "model": model, "seed": 0}
    return trials.Trial(name, settings, name)


def stub():
    """A worker that notes what it is given, and dies or fails as the names say."""

    # Inside a function, so that it travels to where this file cannot be imported.
    class Stub:
        def __init__(self, context, directory):
            self.context = context

        def start(self):
            return "--workdir: not here" if self.context.strict else None

        def work(self, job, wait):
            path = self.context.workdir / job.id
            with path.open("a") as file:
                file.write(f"{os.getpid()}\n")
            num_starts = len(path.read_text().splitlines())
            if "always" in job.id or ("once" in job.id and num_starts == 1):
                os.kill(os.getpid(), signal.SIGKILL)
            if "elsewhere" in job.id and not wait:
                return None, False
            error = "ValueError: bad" if "fails" in job.id else None
            return execute.Outcome(job, error, 0.5), num_starts > 1

    return Stub


def run(names, workdir, capsys, *, strict=False, **options):
    context = Context(workdir=workdir, cache_dir=workdir, strict=strict)
    started = []
    outcomes = ray_executor.run_ray(
        [trial(name) for name in names],
        context,
        Console(),
        lambda job: started.append(job.id),
        num_workers=2,
        **options,
    )
    found = {outcome.job.id: outcome.error for outcome in outcomes}
    return found, started, capsys.readouterr()


@needs_ray
def test_workers_that_die_are_restarted(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ray_executor, "Worker", stub())
    names = ["elsewhere", "good_0", "dies_once", "fails", "dies_always", "good_1"]
    found, started, said = run(names, tmp_path, capsys, max_retries=1)
    assert set(found) == set(names)
    assert found.pop("dies_always").startswith("WorkerDiedError: ")
    failed = {name: error for name, error in found.items() if error}
    assert failed == {"fails": "ValueError: bad"}
    counts = collections.Counter(started)
    assert {name for name, count in counts.items() if count == 2} == {"elsewhere"}
    pids = {name: (tmp_path / name).read_text().split() for name in names}
    assert len(set(pids["dies_once"])) == len(set(pids["dies_always"])) == 2
    log = tmp_path / "trials" / "dies_always" / execute.LOG
    assert "WorkerDiedError" in log.read_text()
    assert said.err == ""
    assert "dies_once: resumed after its worker died" in said.out


@needs_ray
def test_workers_that_cannot_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ray_executor, "Worker", stub())
    with pytest.raises(UsageError, match="--workdir: not here"):
        run(["good"], tmp_path, capsys, strict=True)
    assert not (tmp_path / "good").exists()


def test_workers_keep_their_model_and_spread_over_models():
    queue = [
        (trial("0", "a"), True),
        *((trial(str(k), model), False) for k, model in enumerate("aabbc", start=1)),
    ]

    def choose(held, *in_use):
        return ray_executor._choose(queue, held, in_use)

    a, b, c = (("a", 0), ("b", 0), ("c", 0))
    assert choose(None) == 1
    assert choose(None, a) == 3
    assert choose(None, a, b) == 5
    assert choose(b, a, c) == 3
    assert choose(("d", 0), a, b, c, c) == 1
    assert ray_executor._choose(queue[:1], a, []) == 0


class Cluster:
    """What is asked of Ray about a cluster."""

    def __init__(self, *cores, num_gpus=0):
        self._nodes = [{"Alive": True, "Resources": {"CPU": n}} for n in cores]
        self._nodes += [{"Alive": False, "Resources": {"CPU": 64.0}}]
        self._nodes += [{"Alive": True, "Resources": {}}]
        self._total = {"CPU": sum(cores)} | ({"GPU": num_gpus} if num_gpus else {})

    def nodes(self):
        return self._nodes

    def cluster_resources(self):
        return self._total


@pytest.mark.parametrize(
    ("cluster", "asked", "expected"),
    [
        (Cluster(8.0), None, (4, {"num_cpus": 2})),
        (Cluster(1.0), None, (1, {"num_cpus": 1})),
        (Cluster(2.0), 3, (3, {"num_cpus": 0.6666})),
        (Cluster(8.0, 8.0), 3, (3, {"num_cpus": 4})),
        (Cluster(16.0, num_gpus=4), None, (4, {"num_gpus": 1, "num_cpus": 1})),
        (Cluster(16.0, num_gpus=4), 2, (2, {"num_gpus": 1, "num_cpus": 1})),
    ],
)
def test_shares_of_a_cluster(cluster, asked, expected):
    assert ray_executor.divide(cluster, asked) == expected


def test_without_ray(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"pip install '\.\[sweep\]'"):
        ray_executor.check_installed()


def worker_pids(workdir):
    """Returns the processes of trials that have begun and are not done."""
    return [
        int(log.read_text().splitlines()[0].split()[1])
        for log in workdir.glob(f"trials/*/{execute.LOG}")
        if not (log.parent / "result.json").exists()
    ]


@needs_ray
@pytest.mark.slow
def test_same_table_with_a_worker_killed(corpus, tmp_path, write_manifest):
    def flags(name, *more):
        return (
            *(f"--manifest={write_manifest(MANIFEST)}", f"--data_dir={corpus}"),
            *(f"--cache_dir={tmp_path / name}", f"--workdir={tmp_path / name}", *more),
        )

    undisturbed = launch("sweep", *flags("local"))
    assert undisturbed.returncode == 0
    with subprocess.Popen(
        command("sweep", *flags("ray", "--executor=ray", "--num_workers=2")),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "[3/4]" in line:
                os.kill(worker_pids(tmp_path / "ray")[0], signal.SIGKILL)
        assert (process.stderr.read(), process.wait()) == ("", 0)
    assert sum("resumed after its worker died" in line for line in lines) == 1
    assert any("left" in line for line in lines)
    logs = [log.read_text() for log in tmp_path.glob("ray/trials/*/log.txt")]
    assert sum("training spchcmd" in log for log in logs) == 1
    table = Path("tables") / "quick.csv"
    assert (tmp_path / "ray" / table).read_bytes() == (
        tmp_path / "local" / table
    ).read_bytes()
    for folder in (tmp_path / "ray" / "trials").iterdir():
        other = tmp_path / "local" / "trials" / folder.name
        np.testing.assert_array_equal(
            np.load(folder / "perturbation.npy"), np.load(other / "perturbation.npy")
        )
        ray, local = (
            json.loads((path / "result.json").read_text()) for path in (folder, other)
        )
        for key in ("test", "train", "control", "num_passes"):
            assert ray[key] == local[key]
