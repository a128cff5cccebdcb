"""From the folder of a sweep to its report, also where little of it is there."""

import json

import pytest
from launching import launch_here
from sweeps import finish, plan_built_in

from uap_jax import files
from uap_jax.console import Console
from uap_jax.errors import UsageError
from uap_jax.sweeps import execute, gathering, manifest
from uap_jax.sweeps.corpora import Context
from uap_jax.sweeps.report import render
from uap_jax.sweeps.tables import build

MANIFEST = """
name = "table_2"
title = "Both methods (Table 2)"

[[trials]]
model = "spchcmd"
method = ["greedy", "penalty"]
target = ["untargeted", "each"]
preset = "paper"

[table]
kind = "mean"
rows = ["goal", "method"]
measures = ["test.asr", "test.snr_db"]
published = "2"
"""
CURVES = (
    MANIFEST.replace("table_2", "figure_1")
    .replace('"mean"', '"curve"')
    .replace("rows", 'x = "seed"\nseries')
    .replace('published = "2"', "")
    .replace('target = ["untargeted", "each"]', 'target = "untargeted"\nseed = [0, 1]')
)
TRANSFER = (
    MANIFEST.replace("table_2", "table_4")
    .replace('"spchcmd"', '["cnn_rand", "sincnet"]')
    .replace('"mean"', '"transfer"')
    .replace('["goal", "method"]', '["goal", "method", "model"]')
    .replace('measures = ["test.asr", "test.snr_db"]', "")
    .replace('"2"', '"4"')
)
FRONT = (
    MANIFEST.replace("table_2", "front")
    .replace('"mean"', '"front"')
    .replace('rows = ["goal", "method"]', 'series = ["method"]')
    .replace('measures = ["test.asr", "test.snr_db"]', "")
    .replace('published = "2"', "")
    .replace('["greedy", "penalty"]', '["decoupled", "penalty"]')
    .replace('"each"]', '"a"]')
)


class Sweep:
    """A folder as a sweep leaves it, without the work."""

    def __init__(self, folder):
        self.workdir = folder / "w"
        self.folder = folder

    def add(self, text, *, scale="paper", more=""):
        path = self.folder / "m.toml"
        path.write_text(text)
        planned = plan_built_in(path, self.workdir, scale=scale)
        declared = manifest.load(path, scale=scale)
        command = f"sweep --manifest={declared.name}{more}"
        build.write_tables(declared, planned, workdir=self.workdir, command=command)
        return planned

    def finish(self, trial, **changes):
        finish(trial, self.workdir, **changes)

    def add_examples(self, trial, *, clean=b"RIFF clean", **changes):
        """Writes two examples, of which `changes` are in both."""
        folder = trial.folder(self.workdir) / "examples"
        folder.mkdir(parents=True)
        entries = []
        for number in range(2):
            names = {kind: f"{number}_{kind}.wav" for kind in ("clean", "perturbed")}
            (folder / names["clean"]).write_bytes(clean)
            (folder / names["perturbed"]).write_bytes(trial.id.encode())
            entry = {"name": f"clip {number}", "true_class": "a"}
            entry |= {"clean_prediction": "a", "perturbed_prediction": "b"}
            entry |= {"snr_db": 20.0, "snr_ac_db": None, "relative_loudness_db": -9.0}
            entries.append(entry | names | changes)
        files.write_json(folder / "examples.json", {"examples": entries})


@pytest.fixture
def sweep(tmp_path):
    return Sweep(tmp_path)


def test_a_partial_sweep_of_several_experiments(sweep):
    sweep.add(CURVES)
    planned = sweep.add(MANIFEST)
    sweep.finish(planned[0])
    sweep.finish(planned[1], stop_reason="non_finite_logits")
    context = Context(sweep.workdir, sweep.workdir)
    log = execute.open_log(planned[2], context, Console())
    execute.explain(planned[2], FloatingPointError("a\n<b>"), context, log)
    data = gathering.gather(sweep.workdir)
    assert [section.about["name"] for section in data.sections] == [
        *("table_2", "figure_1")
    ]
    assert (data.num_done, data.num_trials) == (1, 8)
    assert data.not_begun[:2] == ["table_1", "table_3"]
    (corpus,) = data.corpora
    assert (corpus.name, corpus.is_synthetic) == ("synthetic_speech", True)
    assert (corpus.num_classes, corpus.num_samples) == (2, 16_000)
    table, _ = data.sections
    assert (table.corpora, table.paper_corpora) == (
        *(["synthetic_speech"], ["Speech Commands"]),
    )
    assert [failure.error for failure in table.failures] == [
        "the attack stopped in pass 3: non finite logits",
        "FloatingPointError: a <b>",
    ]
    assert table.failures[1].log == f"trials/{planned[2].id}/log.txt"
    assert table.failures[1].last_lines.endswith("FloatingPointError: a\n<b>")
    assert table.missing == [trial.label for trial in planned[3:]]
    done = launch_here("report", f"--sweep={sweep.workdir}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 tables and figures, 1 of 8 trials done" in done.stdout
    page = (sweep.workdir / "report.html").read_text()
    assert "FloatingPointError: a &lt;b&gt;" in page


def test_tables_are_written_anew(sweep):
    planned = sweep.add(MANIFEST)
    for trial in planned:
        sweep.finish(trial)
    table = sweep.workdir / "tables" / "table_2.json"
    before = json.loads(table.read_text())
    assert before["num_done"] == 0
    gathering.gather(sweep.workdir)
    after = json.loads(table.read_text())
    assert after["num_done"] == 6
    assert [row["test.asr"] for row in after["rows"]] == [0.8] * 4
    assert after["command"] == before["command"] == "sweep --manifest=table_2"
    assert after["remarks"][0]["column"].startswith("paper.")
    assert "0.800 / 0.100" in (sweep.workdir / "tables" / "table_2.md").read_text()


def test_a_front_has_a_row_for_each_of_its_perturbations(sweep):
    planned = sweep.add(FRONT)
    decoupled, _, penalty, _ = planned
    sweep.finish(
        decoupled,
        front=[
            {
                "asr_level": level,
                "train": {"asr": level},
                "test": {"asr": level - 0.02, "snr_ac_db": 30 - 20 * level},
                "control": {"asr": 0.1},
            }
            for level in (0.95, 0.9)
        ]
        + [{"asr_level": 0.5}],
    )
    test = {"asr": 0.8, "num_clips": 18, "snr_ac_db": 5.0, "asr_ci95": [0.6, 0.9]}
    sweep.finish(penalty, test=test)
    (section,) = gathering.gather(sweep.workdir).sections
    rows = section.table.rows
    assert [row["asr_level"] for row in rows] == [0.95, 0.9, 0.5, 0.9, 0.9, 0.9]
    found = [row["test.asr"] and round(row["test.asr"], 6) for row in rows]
    assert found == [0.93, 0.88, None, None, 0.8, None]
    assert rows[0]["control.asr"] == 0.1 and rows[4]["test.asr.low"] == 0.6
    assert section.about["notes"][0] == (
        "spchcmd, untargeted, mean-free SNR at a test ASR of 0.9: decoupled 11.6 dB, "
        "penalty (all to one side of it)"
    )
    page = render(gathering.gather(sweep.workdir))
    assert "beats in both rate and level" in page and "<img" in page


def test_clean_accuracy_of_each_training(sweep):
    first, second, third, *_ = sweep.add(MANIFEST)
    for trial, accuracy in [(first, 0.9), (second, 0.8), (third, 0.9)]:
        sweep.finish(trial, clean_accuracy=accuracy)
    (section,) = gathering.gather(sweep.workdir).sections
    (by_training,) = section.about["clean_accuracy"].values()
    assert by_training == {"0 (training 1)": 0.9, "0 (training 2)": 0.8}


def test_judgements_on_other_models_are_missed(sweep):
    planned = sweep.add(TRANSFER)
    for trial in planned:
        sweep.finish(trial)
    # As earlier results are, without the second control.
    sweep.finish(planned[0], control={"asr": 0.1})
    (section,) = gathering.gather(sweep.workdir).sections
    shown = [r[k] for r in section.table.rows for k in r if "same_spectrum" in k]
    assert shown.count(0.2) == len(section.table.rows) - 1
    # Three goals, two methods, either model on the other.
    assert len(section.missing) == 12
    assert section.missing[0].endswith("on cnn_rand")
    assert [table.table for table in section.published] == ["4A", "4B"]


def test_a_retry_forgets_the_error(sweep, monkeypatch):
    (trial, *_) = sweep.add(MANIFEST)
    work = [UsageError("--x: expected y"), None]

    def run(configs, folders, **_):
        assert not (folders[0] / execute.ERROR).exists()
        error = work.pop(0)
        if error is None:
            sweep.finish(trial)
        return [error]

    monkeypatch.setattr(execute, "run", run)
    context = Context(sweep.workdir, sweep.workdir)
    for errors in (["--x: expected y"], []):
        list(execute.run_local([trial], context, Console(), lambda _: None))
        (section,) = gathering.gather(sweep.workdir).sections
        assert [failure.error for failure in section.failures] == errors


def test_an_example_for_each_model_and_goal(sweep):
    planned = sweep.add(MANIFEST)
    for trial in planned:
        sweep.finish(trial)
        sweep.add_examples(trial)
    untargeted, targeted = gathering.gather(sweep.workdir).examples
    assert (untargeted.target, targeted.target) == (None, "a")
    assert (untargeted.name, targeted.name) == ("clip 0", "clip 1")
    assert [each.method for each in targeted.perturbed] == ["greedy", "penalty"]
    ids = {each.audio.decode() for each in targeted.perturbed}
    assert ids == {t.id for t in planned if t.settings["target"] == "a"}
    assert targeted.perturbed[0].snr_ac_db is None


def test_names_that_are_not_utf8(sweep):
    planned = sweep.add(MANIFEST, more=" --data_dir=caf\udce9")
    for trial in planned:
        sweep.finish(trial)
        sweep.add_examples(trial, name="a/\udcff.wav")
    page = render(gathering.gather(sweep.workdir))
    assert "a/?.wav" in page and "caf?" in page
    page.encode()
    table = sweep.workdir / "tables" / "table_2.md"
    assert "caf?" in table.read_text(encoding="utf-8")


def test_what_differs_or_is_damaged_stands_apart(sweep):
    planned = sweep.add(MANIFEST)
    first = [trial for trial in planned if trial.settings["target"] is None]
    sweep.finish(first[0])
    sweep.add_examples(first[0])
    sweep.finish(first[1])
    sweep.add_examples(first[1], clean=b"RIFF other")
    assert len(gathering.gather(sweep.workdir).examples) == 2
    folder = first[1].folder(sweep.workdir) / "examples"
    for damage in ('{"examples": []}', '{"examples": [{}]}', '{"examples": 3}', "{}"):
        (folder / "examples.json").write_text(damage)
        assert len(gathering.gather(sweep.workdir).examples) == 1
    (first[0].folder(sweep.workdir) / "examples" / "0_clean.wav").unlink()
    assert gathering.gather(sweep.workdir).examples == []


def test_long_logs_are_cut_at_a_line(sweep):
    (trial, *_) = sweep.add(MANIFEST)
    folder = trial.folder(sweep.workdir)
    (folder / execute.ERROR).write_text("failed")
    lines = [f"line {number}" for number in range(9999)]
    (folder / execute.LOG).write_text("\n".join(lines))
    (section,) = gathering.gather(sweep.workdir).sections
    shown = section.failures[0].last_lines.split("\n")
    assert shown == lines[-len(shown) :]
    assert 100 < len(shown) < 500


def test_mistakes_are_one_line(sweep, tmp_path):
    sweep.add(MANIFEST)
    table = sweep.workdir / "tables" / "table_2.json"
    whole = json.loads(table.read_text())
    for damaged, message in [
        (
            whole | {"trials": ["none"], "labels": [""]},
            "none/config.json: expected the settings of a trial",
        ),
        ({"name": "table_2"}, "table_2.json: damaged"),
        ([], "table_2.json: damaged"),
    ]:
        table.write_text(json.dumps(damaged))
        with pytest.raises(UsageError, match=message):
            gathering.gather(sweep.workdir)
    for flags, message in [
        ([], "--sweep: expected the work directory of a sweep, got none"),
        ([f"--sweep={tmp_path}"], "--sweep: expected the work directory"),
        (["--sweeps=x"], "Unknown command line flag 'sweeps'"),
    ]:
        done = launch_here("report", *flags)
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: {message}")
        assert done.stderr.count("\n") == 1
