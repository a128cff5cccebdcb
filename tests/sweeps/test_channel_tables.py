"""What tables and figures know of sounds after channels."""

import pytest
from sweeps import RESULT, finish, plan_built_in

from uap_jax.sweeps import gathering, manifest
from uap_jax.sweeps.report import render
from uap_jax.sweeps.tables import build
from uap_jax.sweeps.tables.channels import channel_numbers, level_at, points_of
from uap_jax.sweeps.tables.measures import CONTROLS, MEASURES

CONTROL = {"asr": 0.1, "same_spectrum": {"asr": 0.2}}


def row(channel, asr):
    numbers = {"asr": asr, "asr_waveform": asr, "accuracy_perturbed": 0.3}
    return {"channel": channel, **numbers, "snr_ac_db": 3.0, "control": CONTROL}


def point(snr_ac_db, mean, worst_decile):
    rates = {"mean": mean, "worst_decile": worst_decile, "num_clips": 64}
    return {"asr_level": 0.5, "snr_ac_db": snr_ac_db, **rates, "control": CONTROL}


CHANNELS = {
    "rows": [row("any moment", 0.9), row("MP3 32 kbit/s", 0.8)],
    "moments": {
        **{"mean": 0.9, "worst_decile": 0.7},
        **{"offsets_s": [0.0, 0.5], "asr": [1.0, 0.8]},
    },
    "front": [point(0, 0.9, 0.7), point(4, 0.7, 0.6), {"asr_level": 0.4}],
}
DECLARED = """
name = "figure"
title = "Moments"

[[trials]]
model = "spchcmd"
method = "decoupled"
channel = ["none", "moment"]
target = "a"
seed = [0, 1]

[table]
kind = "moment"
series = ["channel"]
"""


def test_numbers_are_those_that_tables_name():
    numbers = channel_numbers({**RESULT, "channels": CHANNELS})
    names = [name for name in MEASURES if name.startswith("channels.MP3 32")]
    assert len(names) == 4
    assert {*names, *CONTROLS["channels.MP3 32 kbit/s.asr"]} <= set(numbers)
    assert numbers["channels.at_0.80.snr_ac_db"] == pytest.approx(2)
    assert numbers["channels.at_0.80.noise"] == pytest.approx(0.1)
    assert numbers["channels.at_0.80.at_0_db"] == 1
    assert {name for name in numbers if ".at_" in name} <= set(MEASURES)
    assert channel_numbers(RESULT) == {}


@pytest.mark.parametrize(
    ("points", "level_db"),
    [
        ([point(4, 0.7, 0.5), point(0, 0.9, 0.7)], 2),  # both cross at 2 dB
        ([point(4, 0.79, 0.4), point(0, 0.9, 0.65)], 0.8),  # the worst decile decides
        ([point(4, 0.7, 0.6)], None),
        ([point(4, 0.8, 0.6), point(0, 0.9, 0.7)], 4),  # no quieter sound was made
    ],
)
def test_the_level_has_both_rates(points, level_db):
    told = {"rows": [], "moments": {}, "front": points}
    level = level_at(points_of({**RESULT, "channels": told}), 0.8)
    assert (level and level["snr_ac_db"]) == (level_db and pytest.approx(level_db))


def test_moments_and_channels_of_a_sweep(tmp_path, write_manifest):
    texts = {
        "figure": DECLARED,
        "table": DECLARED.replace('"moment"\ns', '"channels"\ns'),
    }
    for name, text in texts.items():
        path = write_manifest(text.replace('"figure"', f'"{name}"'), name)
        planned = plan_built_in(path, tmp_path / "w")
        for trial in planned[:3]:
            front = [
                {"asr_level": rate, "test": {"asr": 0.9, "snr_ac_db": snr_db}}
                | {"control": CONTROL}
                for rate, snr_db in ((0.9, trial.config.seed), (0.7, 4))
            ]
            test = RESULT["test"] | {"snr_ac_db": 0.0}
            about = {"test": test, "channels": CHANNELS, "front": front}
            finish(trial, tmp_path / "w", **about)
        declared = manifest.load(path, scale="paper")
        build.write_tables(declared, planned, workdir=tmp_path / "w", command="sweep")
    figure, table = gathering.gather(tmp_path / "w").sections
    first, second, *_ = figure.table.rows
    assert first["channel"] == second["channel"] == "starts with the clip"
    assert (first["num_done"], first["channels.moments.mean"]) == (2, 0.9)
    assert first["test.snr_ac_db"] == 0.5
    assert first["test.snr_ac_db.spread"] == pytest.approx(0.5**0.5)
    assert second["channels.any moment.control.asr"] == 0.1
    said = figure.about["notes"][1]
    assert "starts with the clip 2.0 dB (spread 0.0), 2 of 2" in said
    assert "moment 2.0 dB, 1 of 2 trials" in said
    after = {row["after"]: row for row in table.table.rows}
    assert after["any moment"]["moment.asr"] == 0.9
    assert after["MP3 32 kbit/s"]["starts with the clip.spread"] == 0
    assert after["100 offsets, worst decile"]["moment.noise"] == 0.1
    page = render(gathering.gather(tmp_path / "w"))
    assert "moment at 0.0 dB: 90% on average, 80% to 100%" in page
    assert "starts with the clip: 90% at 0.5 dB to 70% at 4.0 dB" in page
