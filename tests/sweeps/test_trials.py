"""Trials of a manifest: their ids, corpora, and what is known of them."""

import pytest
from sweeps import MANIFEST, finish, plan_built_in

from uap_jax.errors import UsageError
from uap_jax.sweeps import corpora, sweep, trials


def test_a_trial_is_read_back_from_its_folder(tmp_path, write_manifest):
    planned = plan_built_in(write_manifest(MANIFEST), tmp_path)
    for trial in planned:
        found = trials.read_trial(trial.id, trial.label, tmp_path)
        assert found.facts == trial.facts
    path = planned[0].folder(tmp_path) / "config.json"
    for damage in ("", "[]", "{}", None):
        path.unlink() if damage is None else path.write_text(damage)
        with pytest.raises(UsageError, match=r"config\.json"):
            trials.read_trial(planned[0].id, "", tmp_path)


def test_half_a_result_is_none(tmp_path, write_manifest):
    trial = plan_built_in(write_manifest(MANIFEST), tmp_path)[0]
    assert trials.read_result(trial, tmp_path) is None
    finish(trial, tmp_path)
    assert trials.read_result(trial, tmp_path)["num_passes"] == 2
    whole = (trial.folder(tmp_path) / "result.json").read_text()
    for text in (whole[:-20], "", "[]", "{}", '{"test": 1}'):
        (trial.folder(tmp_path) / "result.json").write_text(text)
        assert trials.read_result(trial, tmp_path) is None


def test_ids_follow_what_changes_a_result(tmp_path, write_manifest):
    def ids(text):
        found = plan_built_in(write_manifest(text), tmp_path / "w")
        return [trial.id for trial in found]

    first = ids(MANIFEST)
    assert len(set(first)) == 4
    same = [
        MANIFEST.replace(
            "num_attack_clips = 20", 'preset = "default"\nnum_attack_clips = 20'
        ),
        MANIFEST.replace("[trials.set]", "[trials.set]\nattack.micro_batch_size = 5"),
        MANIFEST.replace("[trials.set]", "[trials.set]\nattack.target_asr = 0.9"),
        MANIFEST.replace("first:1", "a"),
    ]
    for text in same:
        assert ids(text) == first
    for old, new in [
        ("seed = 4", "seed = 5"),
        ("num_attack_clips = 20", "num_attack_clips = 21"),
        ('"peak"', '"fixed"'),
        ("max_passes = 3", "max_passes = 4"),
        ("num_clips_seen = 300", "num_clips_seen = 301"),
    ]:
        assert not set(ids(MANIFEST.replace(old, new))) & set(first)


@pytest.mark.parametrize("one_way_of_attack", [True, False])
def test_transfers_pair_models(tmp_path, write_manifest, one_way_of_attack):
    text = MANIFEST.replace('"spchcmd"', '["cnn_rand", "sincnet", "spchcmd"]')
    if not one_way_of_attack:
        block = text[text.index("[[trials]]") : text.index("[table]")]
        text = text.replace(
            block,
            block.replace('["cnn_rand", "sincnet", "spchcmd"]', '"cnn_rand"')
            + block.replace('["cnn_rand", "sincnet", "spchcmd"]', '"sincnet"').replace(
                "max_passes = 3", "max_passes = 4"
            ),
        )
    planned = plan_built_in(write_manifest(text), tmp_path / "w")
    assert len(planned) == (12 if one_way_of_attack else 8)
    found = trials.transfers(planned)
    # Two models of scenes, either way; none of speech.
    assert len(found) == len({job.id for job in found}) == 8
    assert len({job.source.id for job in found}) == 8
    for job in found:
        assert {job.source.settings["model"], job.victim.settings["model"]} == {
            *("cnn_rand", "sincnet")
        }


def test_corpora_of_models():
    urban = corpora.CorpusFlags("urbansound8k", "/u")
    speech = corpora.CorpusFlags("speech_commands_paper32", "/s")
    assert corpora.pair([], []) == (corpora.CorpusFlags(),)
    assert corpora.pair([], ["/x"]) == (corpora.CorpusFlags(None, "/x"),)
    pairs = corpora.pair([urban.dataset, speech.dataset], ["/u", "/s"])
    assert pairs == (urban, speech)
    split, whole = corpora.pair(
        [urban.dataset, "folder"], ["/u", "/f"], split="paper", group_pattern="(x)"
    )
    assert (split.split, split.group_pattern) == ("paper", None)
    assert (whole.split, whole.group_pattern) == (None, "(x)")
    mixed = corpora.pair(["synthetic_speech", "esc10"], ["/e"])
    assert mixed[1] == corpora.CorpusFlags("esc10", "/e")
    assert corpora.corpus_of("cnn_rand", pairs) == urban
    assert corpora.corpus_of("spchcmd", pairs) == speech
    assert corpora.corpus_of("spchcmd", (urban,)) == urban
    assert corpora.corpus_of("spchcmd", (urban, mixed[1])).dataset is None
    for names, folders in [
        ([], ["/a", "/b"]),
        (["esc10"], []),
        (["esc10"], ["a", "b"]),
    ]:
        with pytest.raises(UsageError, match="--data_dir: expected"):
            corpora.pair(names, folders)
    for flag, made_for in [("split", "urbansound8k"), ("group_pattern", "folder")]:
        with pytest.raises(UsageError, match=f"--{flag}: .* only {made_for}"):
            corpora.pair(["esc10", "tfsr"], ["/e", "/t"], **{flag: "paper"})


def test_facts_tell_trials_apart_also_by_lists():
    settings = {"target": None, "attack": {"asr_levels": [0.5, 0.9]}}
    facts = trials.Trial("x", settings, "").facts
    assert facts["attack.asr_levels"] == (0.5, 0.9) and hash(tuple(facts.values()))


def test_time_left():
    def trial(model):
        return trials.Trial(model, {"method": "penalty", "model": model}, "")

    spent = {"penalty a": [2.0, 4.0], "other": [9.0]}
    assert sweep.seconds_left([trial("a"), trial("b")], spent) == 3 + 5
