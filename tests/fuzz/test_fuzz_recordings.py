"""500 damaged recordings: read, loaded as each corpus, perturbed."""

import csv
import functools
import json
import os
from pathlib import Path

import numpy as np
import pytest
from fuzz_guard import LIBRARY_ERRORS, Outcomes, snapshot, time_limit
from fuzz_recordings import RATE_HZ, good, name_of, place, recordings

from uap_jax.audio.files import AudioFileError, read_audio, read_channels, write_wav
from uap_jax.data import corpora, urbansound8k
from uap_jax.data.folder import describe_folder
from uap_jax.data.listing import list_recordings
from uap_jax.runs.recordings.apply import apply
from uap_jax.text import printable

NUM_SAMPLES = 2000
COUNTS = (60, pytest.param(500, marks=pytest.mark.slow))


@pytest.fixture(params=COUNTS)
def damaged(request):
    return recordings(request.param)


def write_run(workdir):
    """Writes what apply needs of a finished run."""
    workdir.mkdir()
    config = {"model": "spchcmd", "scaling": "fixed"}
    test = {"waveform_gain": 0.5, "asr": 0.5}
    result = {"test": test, "victim": {"name": "nobody"}, "target": "low"}
    (workdir / "config.json").write_text(json.dumps(config))
    (workdir / "result.json").write_text(json.dumps(result))
    sound = (0.1 * np.sin(np.arange(4000) / 10)).astype(np.float32)
    write_wav(workdir / "perturbation.wav", sound, sample_rate_hz=RATE_HZ)
    return workdir


def write_good(folder, name, count=6):
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        (folder / name.format(index=index)).write_bytes(good(index))


def test_each_is_read_or_refused(damaged, tmp_path):
    place(tmp_path, damaged, "{index:03d}")
    before = snapshot(tmp_path)
    outcomes = Outcomes()
    for index, recording in enumerate(damaged):
        path = tmp_path / os.fsdecode(name_of(recording, index, "{index:03d}"))
        for read in (
            functools.partial(read_audio, sample_rate_hz=RATE_HZ),
            functools.partial(read_audio, sample_rate_hz=RATE_HZ, num_samples=300),
            read_channels,
        ):
            outcomes.add(
                recording.kind,
                functools.partial(read, path),
                allowed=(AudioFileError,),
                naming=(str(tmp_path),),
            )
    assert snapshot(tmp_path) == before
    outcomes.check("reading")


def write_folder(root, damaged):
    for index, name in enumerate(("a", "b")):
        write_good(root / name, "good{index}.wav")
        place(root / name, damaged[index::2], "{index:03d}")


def write_speech_commands(root, damaged):
    for index, word in enumerate(("yes", "no", "_background_noise_")):
        write_good(root / word, "0000000{index}_nohash_1.wav")
        place(root / word, damaged[index::3], "{index:08x}_nohash_0")


def write_esc10(root, damaged):
    for index, name in enumerate(("001 - Dog bark", "002 - Rain")):
        write_good(root / name, "1-1{index}-A.wav")
        write_good(root / name, "2-2{index}-A.wav")
        place(root / name, damaged[index::2], "1-{index:03d}-B")


def write_esc50(root, damaged):
    write_good(root / "audio", "good{index}.wav")
    place(root / "audio", damaged, "{index:03d}")
    names = sorted(os.listdir(root / "audio"))
    header = ("filename", "fold", "target", "category", "esc10", "src_file")
    rows = [
        (name, 1 + index % 3, index % 2, "ab"[index % 2], "True", index)
        for index, name in enumerate(names)
    ]
    write_csv(root / "meta" / "esc50.csv", [header, *rows])


def write_urbansound8k(root, damaged):
    rows = []
    for fold in (1, 2, 3):
        folder = root / "audio" / f"fold{fold}"
        write_good(folder, "good{index}.wav")
        place(folder, damaged[fold - 1 :: 3], "{index:03d}")
        names = sorted(os.listdir(folder))
        rows += [(name, len(rows) + i, fold, i % 10) for i, name in enumerate(names)]
    header = ("slice_file_name", "fsID", "fold", "classID")
    write_csv(root / urbansound8k._LAYOUTS[0][0], [header, *rows])


def write_csv(path, rows):
    path.parent.mkdir()
    with open(
        path, "w", newline="", encoding="utf-8", errors="surrogateescape"
    ) as file:
        csv.writer(file).writerows(rows)


LAYOUTS = {
    "folder": write_folder,
    "speech_commands": write_speech_commands,
    "speech_commands_kaggle12": write_speech_commands,
    "esc10": write_esc10,
    "esc50": write_esc50,
    "urbansound8k": write_urbansound8k,
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_corpus_leaves_out_and_names_what_is_damaged(damaged, name, tmp_path):
    root = tmp_path / "corpus"
    LAYOUTS[name](root, damaged)
    before = snapshot(root)
    settings = {"data_dir": root, "cache_dir": tmp_path / "cache"}
    settings |= {"sample_rate_hz": RATE_HZ, "num_samples": NUM_SAMPLES}
    with time_limit(60):
        dataset = corpora.load(name, **settings)
    used, skipped = set(dataset.names.tolist()), dataset.skipped
    assert skipped
    prefixes = tuple(line.partition(": ")[0] for line in skipped)
    for path in listed_files(root):
        assert path in used or path.startswith(prefixes), path
    outcomes = Outcomes()
    outcomes.add(
        name,
        lambda: corpora.load(name, strict=True, **settings),
        allowed=LIBRARY_ERRORS,
        naming=(str(root),),
    )
    assert outcomes.counts["done"] == 0
    assert snapshot(root) == before
    outcomes.check(f"{name}: {len(used)} used, {len(skipped)} skipped; strict")
    if name == "folder":
        lines = describe_folder(root, num_samples=NUM_SAMPLES)
        assert all(printable(line) == line for line in lines)


def listed_files(root):
    """The files that a corpus takes for recordings, apart from its background."""
    suffixes = (".wav", ".flac", ".ogg")
    for path in Path(root).rglob("*.*"):
        relative = str(path.relative_to(root))
        # Background, hidden, or deeper than most corpora are.
        is_other = relative.startswith("_background_noise_") or path.name[0] == "."
        is_other = is_other or path.parent.name == "full.wav" or path.is_dir()
        if relative.endswith(suffixes) and not is_other:
            yield relative


def test_folder_is_perturbed_as_far_as_it_can_be(damaged, tmp_path, capsys):
    source, target = tmp_path / "in", tmp_path / "out"
    run = write_run(tmp_path / "run")
    write_good(source / "a", "good{index}.wav")
    place(source / "b", damaged, "{index:03d}")
    before = snapshot(source), snapshot(run)

    def perturb(**settings):
        settings = {"perturbation": run, "cache_dir": tmp_path} | settings
        with time_limit(60):
            return apply(source, target, **settings)

    total, skipped, num_non_finite = perturb()
    assert skipped and total >= len(damaged) and num_non_finite == 0
    out = capsys.readouterr().out
    assert all(printable(line) == line for line in out.splitlines())
    written = snapshot(target)
    num_written = sum(path.endswith((b".wav", b".WAV")) for path in written)
    assert num_written + len(skipped) >= len(damaged)
    assert len([path for path in written if b"/." in path]) == 0
    for settings in ({}, {"overwrite": True}):
        perturb(**settings)
        assert snapshot(target) == written
    assert (snapshot(source), snapshot(run)) == before


def test_folders_that_link_to_each_other(tmp_path):
    names = [f"folder{index}" for index in range(12)]
    for name in names:
        write_good(tmp_path / name, "good{index}.wav", count=1)
        for other in names:
            (tmp_path / name / other).symlink_to(tmp_path / other)
    with time_limit(20):
        paths, _ = list_recordings(tmp_path)
    assert {f"{name}/good0.wav" for name in names} <= set(paths)
