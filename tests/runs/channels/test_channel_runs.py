"""Runs whose sound passes a channel, from the flags to the files."""

import dataclasses
import json
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from launching import QUICK, launch_here
from toy_runs import attack, prepare

from uap_jax.attacks import Front, Perturbation
from uap_jax.runs.channels import table as channel_table
from uap_jax.runs.channels.table import evaluate_table
from uap_jax.runs.config import RunConfig
from uap_jax.runs.fronts import evaluate_front_moments


def read(path):
    return json.loads(path.read_text())


def through_a_channel(ready, **changes):
    config = dataclasses.replace(ready.config, channel="moment", **changes)
    # What tells the length of a clip, the toy's.
    facts = {"sample_rate_hz": 16_000, "num_samples": 40, "name": "toy"}
    return ready._replace(config=dataclasses.replace(config, own_model=facts))


def test_an_attack_passes_its_channel_and_says_what_it_does_not_reach(tmp_path, capsys):
    ready = through_a_channel(prepare(tmp_path, max_passes=2), sound_seconds=0.001)
    (result,) = attack(ready)
    assert result.perturbation.value.shape == (16,)
    said = capsys.readouterr().out
    assert not result.converged and "not reachable in 2 passes through moment" in said
    assert f"at best ASR {np.nanmax(result.history['asr']):.3f}" in said


def test_every_sound_has_the_table_but_with_large_classifiers(
    tmp_path, capsys, monkeypatch
):
    ready = through_a_channel(prepare(tmp_path))
    sound = Perturbation(jnp.full(40, 0.1), space="signal", sample_rate_hz=16_000)

    def table(**changes):
        return evaluate_table(
            sound,
            config=dataclasses.replace(ready.config, channel=None, **changes),
            classifier=ready.victim.classifier,
            clips=ready.clips,
            gain=1.0,
            key=ready.keys[1],
            console=ready.console,
        )

    made = table()
    rates = {row["channel"]: row["asr"] for row in made["rows"]}
    # A constant is the same at every moment.
    assert rates["with the clip"] == rates["any moment"]
    assert set(made["moments"]["asr"]) == {rates["any moment"]}
    assert list(rates)[2:] == ["telephone band", "any moment, telephone band"]
    monkeypatch.setattr(channel_table, "MAX_WEIGHTS", 100)
    assert table() is None and table(channel_table=False) is None
    assert capsys.readouterr().out.count("--channel_table makes one") == 1
    assert channel_table.asks_for_table(RunConfig(rooms="simulated"))
    assert channel_table.asks_for_table(RunConfig()) is None


def test_points_of_a_front_are_evaluated_at_any_moment_once():
    values = np.arange(3.0)[[0, 1, 1, 2], None]
    front = Front(
        np.array([0.9, 0.8, 0.7, 0.6]), values, *[np.array([1, 1, 1, np.inf])] * 2
    )
    entry = {"test": {"snr_ac_db": 5.0}, "control": {"asr": 0.1}}
    entries = [{"asr_level": rate, **entry} for rate in (0.9, 0.8, 0.7)]
    calls = []

    def moments(point):
        calls.append(float(point.value[0]))
        return {"mean": point.value[0], "worst_decile": 0.5, "num_clips": 4, "asr": []}

    evaluate = SimpleNamespace(moments=moments)
    main = Perturbation(value=values[0], space="tanh")
    found = evaluate_front_moments(
        evaluate, front, main, [*entries, {"asr_level": 0.6}], moments(main)
    )
    assert calls == [0, 1]
    assert [point.get("mean") for point in found] == [0, 1, 1, None]
    assert found[2] == {
        **{"asr_level": 0.7, "snr_ac_db": 5.0, "mean": 1, "worst_decile": 0.5},
        **{"num_clips": 4, "control": {"asr": 0.1}},
    }


@pytest.mark.slow
def test_a_run_and_its_evaluation(corpus, cache, tmp_path):
    rooms = tmp_path / "rooms"
    rooms.mkdir()
    rng = np.random.default_rng(0)
    for room in range(4):
        response = rng.standard_normal(2000) * np.exp(-np.arange(2000) / 300) * 0.1
        response[0] = 0.9
        soundfile.write(rooms / f"{room}.wav", response, 16_000)
    where = (f"--data_dir={corpus}", f"--cache_dir={cache}")
    flags = (
        *("--channel=moment,rooms,band=telephone", f"--rooms={rooms}"),
        *("--channel_table", "--sound_seconds=0.5"),
    )
    run = tmp_path / "run"
    done = launch_here(
        "run",
        *QUICK,
        *where,
        *flags,
        "--sound_seconds=0.5",
        "--channel_table",
        f"--workdir={run}",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "through moment,rooms,band=telephone" in done.stdout
    result = read(run / "result.json")
    assert result["channel"] == "moment,rooms,band=telephone"
    names = [row["channel"] for row in result["channels"]["rows"]]
    assert names == [
        "with the clip",
        "any moment",
        "telephone band",
        "any moment, telephone band",
        "unseen rooms",
        "any moment, unseen rooms",
    ]
    assert len(result["channels"]["moments"]["asr"]) == 100
    assert np.load(run / "perturbation.npy").shape == (8000,)
    assert "After channels" in (run / "report.html").read_text()
    done = launch_here(
        "evaluate", f"--perturbation={run}", f"--cache_dir={cache}", "--codec_table"
    )
    assert (done.returncode, done.stderr) == (0, "")
    (path,) = run.glob("evaluations/*/evaluation.json")
    evaluation = read(path)
    assert evaluation["test"] == result["test"]
    rows = evaluation["channels"]["rows"]
    assert rows[: len(names)] == result["channels"]["rows"]
    assert "MP3 16 kbit/s" in [row["channel"] for row in rows]
    applied = tmp_path / "long.wav"
    soundfile.write(tmp_path / "in.wav", np.zeros(20_000), 16_000)
    done = launch_here(
        "apply",
        f"--perturbation={run}",
        str(tmp_path / "in.wav"),
        str(applied),
        "--predict=False",
    )
    assert done.returncode == 0
    heard, _ = soundfile.read(applied)
    np.testing.assert_array_equal(heard[:8000], heard[8000:16_000])
