"""Runs on detectors: success where the state is another one, rates, report."""

import dataclasses
import json

import detectors
import jax.numpy as jnp
import numpy as np
import own_networks
import pytest
from tones import write_tones

from uap_jax import bridges
from uap_jax.bridges import custom_models
from uap_jax.bridges.deployed import DEPLOYED, Entry
from uap_jax.console import Console
from uap_jax.errors import UsageError
from uap_jax.evaluation import wilson_interval
from uap_jax.runs.config import RunConfig
from uap_jax.runs.evaluate import evaluate_stored
from uap_jax.runs.resolve import _default_corpus, resolve
from uap_jax.runs.run import run


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_tones(tmp_path_factory.mktemp("corpus") / "tones")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def settings_for(corpus, **changes):
    given = {
        "method": "decoupled",
        "model": "detectors:tagger",
        "label": "low",
        "target": "low",
        "dataset": "speech_commands",
        "data_dir": str(corpus),
        "num_attack_clips": 10,
        "asr_levels": ("0.5", "0.9"),
        "overrides": ("max_passes=12", "batch_size=5"),
        "channel_table": False,
    }
    return RunConfig(**given | changes)


def carry_out(workdir, cache, *configs):
    folders = [workdir / str(index) for index in range(len(configs))]
    outcomes = run(
        [resolve(config) for config in configs],
        folders,
        cache_dir=cache,
        consoles=[Console() for _ in configs],
        width=None,
    )
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
    return folders


@pytest.fixture(scope="module")
def attacked(corpus, cache, tmp_path_factory):
    """Both directions as one group, whose clips differ."""
    configs = [settings_for(corpus, target=goal) for goal in ("low", "no low")]
    return carry_out(tmp_path_factory.mktemp("runs"), cache, *configs)


def read(path):
    return json.loads(path.read_text())


def test_one_label_is_made_to_fire_and_to_miss(attacked, capsys):
    fire, miss = (read(folder / "result.json") for folder in attacked)
    # 18 test clips, 6 of each word; of 30 training clips 10 hold the label.
    assert fire["clean_accuracy"] == 1.0
    assert (fire["test"]["num_clips"], fire["test"]["num_counted"]) == (18, 12)
    assert miss["test"]["num_counted"] == 6
    assert miss["train"]["num_clips"] == fire["train"]["num_clips"] == 10
    for result, goal, counted in ((fire, "turned_on", 12), (miss, "turned_off", 6)):
        rates = result["detection"]
        assert rates["label"] == "low"
        assert rates["clean"]["miss_rate"]["rate"] == 0.0
        assert rates["clean"]["false_alarm_rate"]["rate"] == 0.0
        turned = rates["perturbed"][goal]
        assert turned["num_clips"] == counted
        # The clean detector makes no mistake, so that a change is one.
        assert result["test"]["asr"] == turned["rate"] > 0.5
        assert result["test"]["asr_ci95"] == turned["ci95"]
        assert result["control"]["asr"] == rates["control"][goal]["rate"]
        assert result["front"][-1]["test"]["asr"] >= 0.5
        success = np.load(attacked[result is miss] / "test_clips.npz")
        assert len(success["success"]) == len(success["index"]) == counted
        assert np.mean(success["success"]) == result["test"]["asr"]


def test_its_report_and_evaluation(attacked, cache, tmp_path, capsys):
    page = (attacked[1] / "report.html").read_text()
    assert "Misses and false alarms" in page
    assert "makes detectors:tagger miss &#34;low&#34;" in page
    assert "6 unseen clips where it does without it" in page
    again = evaluate_stored(attacked[1], workdir=tmp_path, cache_dir=cache)
    result = read(attacked[1] / "result.json")
    assert read(tmp_path / "evaluation.json")["detection"] == result["detection"]
    assert again["test"]["num_counted"] == 6
    said = capsys.readouterr().out
    assert 'on 6 of 18 clips, those not "no low" without it' in said
    assert 'misses of "low", 6 clips: 0.000 [0.000, 0.390] clean clips, ' in said


@pytest.mark.slow
def test_a_streaming_detector_on_one_class(cache, tmp_path):
    """The length of clips follows the recordings; all of them hold a tone."""
    corpus = write_tones(tmp_path / "tones")
    folder = tmp_path / "one"
    folder.mkdir()
    (corpus / "low").rename(folder / "tone")
    config = settings_for(
        folder,
        model="detectors:tones",
        label=None,
        target="no tone",
        dataset="folder",
        group_pattern=r"(\w+)_nohash",
        asr_levels=(),
    )
    (workdir,) = carry_out(tmp_path, cache, config)
    result = read(workdir / "result.json")
    assert read(workdir / "config.json")["clip_samples"] == detectors.RATE_HZ
    rates = result["detection"]
    assert rates["clean"]["false_alarm_rate"]["rate"] is None
    assert rates["clean"]["miss_rate"]["rate"] == 0.0
    assert result["test"]["num_counted"] == result["test"]["num_clips"]
    assert "no clips" in (workdir / "report.html").read_text()
    with pytest.raises(UsageError, match=r'training clips that are not "tone" for .*'):
        carry_out(tmp_path / "on", cache, dataclasses.replace(config, target="tone"))


def test_labels_and_lengths_that_do_not_fit():
    with pytest.raises(UsageError, match=r"^--label: .* mid, low, high to .*got None"):
        custom_models.load("detectors:tagger")
    with pytest.raises(UsageError, match=r"^--label: own_networks:named is no multi"):
        custom_models.load("own_networks:named", label="low")
    with pytest.raises(UsageError, match=r"^--clip_samples: .* its length alone"):
        custom_models.load("detectors:tagger", label="low", num_samples=8)
    with pytest.raises(UsageError, match=r"^--label: spchcmd takes none"):
        custom_models.load("spchcmd", label="low")
    shorter = custom_models.load("detectors:tones", num_samples=3200)
    assert shorter is not None and shorter[0].num_samples == 3200
    low, mid = (
        custom_models.load("detectors:tagger", label=label) for label in ("low", "mid")
    )
    assert low[1]["class_names"] == ("no low", "low")
    assert low[1]["fingerprint"] != mid[1]["fingerprint"]


def test_a_threshold_makes_a_file_of_scores(tmp_path, monkeypatch):
    path, given = tmp_path / "net.pt", detectors.tagger()
    path.write_bytes(b"")
    facts = {
        **own_networks.SIZES,
        "class_names": list(own_networks.NAMES),
        "input_range": "waveform",
        "threshold": 0.9,
    }

    def read(path, *, num_classes, **settings):
        assert num_classes == 3 and "threshold" not in settings
        return dataclasses.replace(given, class_names=None, threshold=None)

    monkeypatch.setattr(bridges, "from_torch_file", read)
    path.with_name("net.pt.json").write_text(json.dumps(facts))
    loaded = custom_models.load(str(path), label="low")
    assert loaded is not None
    x = jnp.full((1, own_networks.RATE_HZ), 0.5)
    score = given.logits(given.variables, x)[0, 1]
    logits = loaded[0].logits(loaded[0].variables, x)[0]
    np.testing.assert_allclose(logits, [0.0, score - np.log(9.0)], rtol=1e-5)
    path.with_name("net.pt.json").write_text(json.dumps(facts | {"threshold": 1}))
    with pytest.raises(UsageError, match=r"net.pt.json: threshold: .* got 1$"):
        custom_models.load(str(path), label="low")


def test_a_deployed_detector_without_its_package(monkeypatch):
    card = Entry("detectors:tones", "tones==1.0", "no_such_package", *["words"] * 5)
    monkeypatch.setitem(DEPLOYED, "tones", card)
    with pytest.raises(UsageError, match=r"no_such_package; pip install tones==1.0$"):
        custom_models.load("tones")
    here = Entry("detectors:tones", "tones==1.0", "detectors", *["words"] * 5)
    monkeypatch.setitem(DEPLOYED, "tones", here)
    _, facts = custom_models.load("tones")
    assert facts["class_names"] == ("no tone", "tone")
    assert facts["name"].startswith("tones-")
    assert wilson_interval(0, 6)[1] == pytest.approx(0.390, abs=5e-4)


def test_voice_detectors_have_a_built_in_corpus():
    config = RunConfig(model="silero_vad")
    assert _default_corpus(config, True) == "synthetic_speech"
    config = RunConfig(model="silero_vad", data_dir="recordings")
    assert _default_corpus(config, True) == "folder"
    assert _default_corpus(RunConfig(model="net.onnx"), True) == "folder"
