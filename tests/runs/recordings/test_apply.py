"""Perturbing recordings of any kind, and the files that come of it."""

import json
import re
import shutil

import numpy as np
import pytest
import soundfile
import soxr
from launching import launch_here

from uap_jax.audio.files import read_channels, write_wav
from uap_jax.errors import UsageError
from uap_jax.runs.recordings.apply import apply
from uap_jax.runs.recordings.perturbing import add_sound

RATE_HZ = 16_000
GAIN = 0.5
STEP = 1 / 32768


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What apply needs of a finished run."""
    workdir = tmp_path_factory.mktemp("run")
    config = {"model": "spchcmd", "scaling": "fixed"}
    result = {
        "test": {"asr": 0.5, "waveform_gain": GAIN},
        "victim": {"name": "nobody"},
        "target": "low",
    }
    (workdir / "config.json").write_text(json.dumps(config))
    (workdir / "result.json").write_text(json.dumps(result))
    time_s = np.arange(RATE_HZ) / RATE_HZ
    sound = (0.1 * np.sin(2 * np.pi * 440 * time_s)).astype(np.float32)
    write_wav(workdir / "perturbation.wav", sound, sample_rate_hz=RATE_HZ)
    (workdir / "checkpoints" / "perturbation").mkdir(parents=True)
    return workdir


@pytest.fixture
def perturb(run, tmp_path):
    def perturb(source, target, **settings):
        cache_dir = tmp_path / "no-cache"
        others = {
            k: settings.pop(k) for k in ("as_float", "overwrite") if k in settings
        }
        _, skipped, _ = apply(
            source,
            target,
            perturbation=run,
            cache_dir=cache_dir,
            arrives=settings,
            **others,
        )
        return len(skipped)

    return perturb


def noise(num_samples, num_channels=1, *, amplitude=0.3, seed=0):
    rng = np.random.default_rng(seed)
    return amplitude * rng.uniform(-1, 1, (num_samples, num_channels))


def sound_at(run, rate_hz):
    sound = read_channels(run / "perturbation.wav")[0][:, 0]
    return GAIN * soxr.resample(sound, RATE_HZ, rate_hz)


def files_of(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("rate_hz", "num_samples", "num_channels"),
    [(16_000, 40_000, 1), (44_100, 70_000, 2), (8000, 3000, 1), (48_000, 1, 6)],
)
def test_keeps_rate_length_and_channels(
    perturb, run, tmp_path, rate_hz, num_samples, num_channels
):
    source, target = tmp_path / "in.wav", tmp_path / "out.wav"
    soundfile.write(source, noise(num_samples, num_channels), rate_hz)
    assert perturb(source, target) == 0
    assert soundfile.info(target).subtype == "PCM_16"
    clean, _ = read_channels(source)
    perturbed, written_hz = read_channels(target)
    assert (written_hz, perturbed.shape) == (rate_hz, clean.shape)
    expected = np.resize(sound_at(run, rate_hz), num_samples)
    expected = np.broadcast_to(expected[:, None], clean.shape)
    np.testing.assert_allclose(perturbed - clean, expected, atol=STEP)


@pytest.mark.parametrize("placement", ["once", "shift:0.25"])
def test_placement(perturb, run, tmp_path, capsys, placement):
    source, target = tmp_path / "in.wav", tmp_path / "out.wav"
    soundfile.write(source, noise(20_000), RATE_HZ)
    assert perturb(source, target, placement=placement) == 0
    added = (read_channels(target)[0] - read_channels(source)[0])[:, 0]
    sound = sound_at(run, RATE_HZ)
    if placement == "once":
        expected = np.pad(sound, (0, 4000))
        assert "once, at the beginning" in capsys.readouterr().out
    else:
        expected = np.resize(np.roll(sound, 4000), 20_000)
    np.testing.assert_allclose(added, expected, atol=STEP)


def test_a_moment_is_told_and_a_long_recording_has_no_gap(
    perturb, run, tmp_path, capsys
):
    source, sound = tmp_path / "in.wav", sound_at(run, RATE_HZ)
    soundfile.write(source, np.zeros(50_000), RATE_HZ)

    def added(target, **settings):
        assert perturb(source, tmp_path / target, **settings) == 0
        return read_channels(tmp_path / target)[0][:, 0]

    expected = np.resize(np.roll(sound, -4000), 50_000)
    np.testing.assert_allclose(added("a.wav", moment="0.25"), expected, atol=STEP)
    assert "begun 0.25 s before the recording;" in capsys.readouterr().out
    drawn = added("b.wav", moment="random")
    told_s = re.findall(
        r"begun ([\d.]+) s before the recording;", capsys.readouterr().out
    )
    shift = round(float(told_s[0]) * RATE_HZ)
    expected = np.resize(np.roll(sound, -shift), 50_000)
    # Told to a tenth of a millisecond.
    np.testing.assert_allclose(drawn, expected, atol=0.01)
    np.testing.assert_array_equal(added("c.wav", channel="moment"), drawn)
    assert np.any(added("d.wav", moment="random", seed=1) != drawn)


def test_a_room_is_told_and_rings_with_what_came_before(perturb, run, tmp_path, capsys):
    source, rooms = tmp_path / "in.wav", tmp_path / "rooms"
    soundfile.write(source, np.zeros(40_000), RATE_HZ)
    rooms.mkdir()
    response = np.zeros(3000)
    response[[700, 800]] = 0.8, 0.6
    soundfile.write(rooms / "hall.wav", response, RATE_HZ)
    sound = np.resize(np.roll(sound_at(run, RATE_HZ), -800), 40_000)
    expected = 0.8 * sound + 0.6 * np.roll(sound, 100)
    for name, given in (("a.wav", rooms / "hall.wav"), ("b.wav", rooms)):
        assert perturb(source, tmp_path / name, moment="0.05", rooms=str(given)) == 0
        assert (
            "begun 0.05 s before the recording, in room hall.wav;"
            in capsys.readouterr().out
        )
        added = read_channels(tmp_path / name)[0][:, 0]
        # The period divides neither; the last samples of `roll` are the first.
        np.testing.assert_allclose(added[100:], expected[100:], atol=2 * STEP)
        echo = 0.6 * sound_at(run, RATE_HZ)[700]
        assert added[0] == pytest.approx(0.8 * sound[0] + echo, abs=2 * STEP)
    soundfile.write(source, np.zeros(66_000), 44_100)
    channel = "once,band=telephone,gain=-6.0206"
    assert perturb(source, tmp_path / "c.wav", channel=channel) == 0
    assert "band 300 to 3400 Hz, gain -6.02 dB;" in capsys.readouterr().out
    added = read_channels(tmp_path / "c.wav")[0][:, 0]
    expected = np.pad(0.5 * sound_at(run, 44_100), (0, 66_000 - 44_100))
    # The filter smooths the ends of a sound played once.
    np.testing.assert_allclose(added[2000:42_000], expected[2000:42_000], atol=3e-4)
    np.testing.assert_allclose(added[46_000:], 0, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"moment": "soon"}, "--moment: expected seconds or random, got 'soon'"),
        ({"moment": "1", "placement": "once"}, "both say when the sound starts"),
        ({"moment": "1", "channel": "once"}, "both say when the sound starts"),
        ({"channel": "mud"}, "--channel: expected a list of"),
        ({"rooms": "no-folder"}, "^--rooms: .*no-folder: does not exist"),
        ({"rooms": "."}, "^--rooms: expected room responses in"),
    ],
)
def test_arrivals_that_cannot_be(perturb, tmp_path, monkeypatch, settings, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        perturb(tmp_path / "in.wav", tmp_path / "out.wav", **settings)


def test_levels_are_those_of_the_definitions():
    samples = noise(1000, 2).astype(np.float32) + np.float32(0.1)
    sound = noise(1000, amplitude=0.1, seed=1)[:, 0].astype(np.float32)
    for scaling, low in (
        ("fixed", -1.0),
        ("peak", -np.abs(samples).max()),
        ("minmax", samples.min()),
    ):
        written, measured = add_sound(samples, sound, scaling=scaling)
        delta = (written - samples).astype(np.float64)
        x = samples.astype(np.float64) - low
        expected = 10 * np.log10(np.mean(x**2) / np.mean(delta**2))
        np.testing.assert_allclose(measured.snr_db, expected, atol=1e-4)
        expected = 10 * np.log10(
            np.mean(samples.var(axis=0)) / np.mean(delta.var(axis=0))
        )
        np.testing.assert_allclose(measured.snr_ac_db, expected, atol=1e-3)
        assert measured.num_clipped == 0


def test_silent_loud_and_quiet_recordings(perturb, run, tmp_path, capsys):
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    time_s = np.arange(8000) / RATE_HZ
    loud = np.where(np.sin(2 * np.pi * 440 * time_s) >= 0, 0.99, -0.99)
    soundfile.write(source / "silent.wav", np.zeros(8000), RATE_HZ)
    soundfile.write(source / "loud.wav", loud, RATE_HZ)
    soundfile.write(source / "tiny.wav", 1e-30 * loud, RATE_HZ, subtype="FLOAT")
    soundfile.write(source / "huge.wav", 1e38 * loud, RATE_HZ, subtype="FLOAT")
    assert perturb(source, target) == 0
    lines = dict(
        line.split(": ", 1)
        for line in capsys.readouterr().out.splitlines()
        if ".wav: " in line
    )
    assert "SNR n/a; 0 samples beyond" in lines["silent.wav"]
    assert "SNR 0.0 dB with the resting level" in lines["huge.wav"]
    assert "; 8000 samples beyond" in lines["huge.wav"]
    assert "; 0 samples beyond" not in lines["loud.wav"]
    assert "the sound 0.5 times" in lines["loud.wav"]
    silent, _ = read_channels(target / "silent.wav")
    np.testing.assert_allclose(silent[:, 0], sound_at(run, RATE_HZ)[:8000], atol=STEP)
    loud, _ = read_channels(target / "loud.wav")
    assert loud.max() == 1 - STEP
    assert perturb(source / "loud.wav", tmp_path / "loud.wav", as_float=True) == 0
    unclipped, _ = read_channels(tmp_path / "loud.wav")
    assert unclipped.max() > 1.02
    assert soundfile.info(tmp_path / "loud.wav").subtype == "FLOAT"


def write_mixed(folder):
    """Writes recordings of many kinds; returns the names of their results."""
    results = []
    for index, (suffix, subtype) in enumerate(
        [
            *((".wav", "PCM_16"), (".wav", "PCM_24"), (".WAV", "FLOAT")),
            *((".wav", "PCM_U8"), (".flac", "PCM_16"), (".ogg", "VORBIS")),
            *((".mp3", "MPEG_LAYER_III"), (".aiff", "PCM_16")),
        ]
    ):
        name = f"sub {index % 2}/\u00e9t\u00e9 {index}{suffix}"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        rate_hz = (16_000, 44_100, 8000)[index % 3]
        samples = noise(3000 * (index + 1), 1 + index % 2)
        soundfile.write(folder / name, samples, rate_hz, subtype=subtype)
        results.append(name if suffix.lower() == ".wav" else f"{name}.wav")
    return results


def write_damaged(folder):
    """Writes 30 files that are no recordings, whatever they are called."""
    soundfile.write(folder / "good.flac", noise(16_000), RATE_HZ)
    flac = (folder / "good.flac").read_bytes()
    nan = np.full(100, np.nan)
    names = []
    for index in range(6):
        for kind, content in (
            ("text.wav", b"no recording"),
            ("empty.mp3", b""),
            ("cut.flac", flac[: 1000 + index]),
            ("header.wav", b"RIFF\xff\xff\xff\xffWAVEfmt "),
        ):
            names.append(f"{index}-{kind}")
            (folder / names[-1]).write_bytes(content)
        names.append(f"{index}-nan.wav")
        soundfile.write(folder / names[-1], nan, RATE_HZ, subtype="FLOAT")
    return names


def test_folder_of_all_kinds(perturb, tmp_path, capsys):
    source, target = tmp_path / "in", tmp_path / "out"
    results = write_mixed(source)
    damaged = write_damaged(source)
    results.append("good.flac.wav")
    (source / "notes.txt").write_text("no audio")
    before = files_of(source)
    assert len(damaged) == 30
    assert perturb(source, target) == 30
    out = capsys.readouterr().out
    for name in damaged:
        assert len(re.findall(f"^skipped {re.escape(name)}: ", out, re.M)) == 1
    assert "9 recordings perturbed" in out
    assert sorted(files_of(target)) == sorted(results)
    assert files_of(source) == before
    written = files_of(target)
    (target / results[0]).write_bytes(b"mine")
    assert perturb(source, target) == 30
    assert files_of(target) == written | {results[0]: b"mine"}
    assert "9 results exist" in capsys.readouterr().out
    assert perturb(source, target, overwrite=True) == 30
    assert files_of(target) == written
    assert files_of(source) == before


def test_no_result_replaces_another_or_a_recording(perturb, tmp_path, capsys):
    source, target = tmp_path / "in", tmp_path / "out"
    for name in ("a.flac", "a.flac.wav", "sub/b.flac"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(source / name, noise(100), RATE_HZ)
    target.mkdir()
    (target / "sub").symlink_to(source / "sub")
    before = files_of(source)
    assert perturb(source, target, overwrite=True) == 2
    assert perturb(source, target) == 2
    first, out = capsys.readouterr().out.split("1 results exist")
    for text in (first, out):
        assert "skipped a.flac: its result would replace that of a.flac.wav" in text
    assert "skipped sub/b.flac: its result would be among the recordings" in out
    assert files_of(source) == before
    assert [path.name for path in target.iterdir() if path.is_file()] == ["a.flac.wav"]


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("in/a.wav", "in/a.wav", "another file than the recording"),
        ("in/a.wav", "in/../in/link.wav", "another file than the recording"),
        ("in/a.wav", "there.wav", "--overwrite"),
        ("in/a.wav", "out.flac", "ends in .wav"),
        ("in/bad.wav", "out.wav", "cannot be read as audio"),
        ("in/none.wav", "out.wav", "expected a recording or a folder, got none"),
        ("in", "in", "outside of"),
        ("in", "in/out", "outside of"),
        ("in", ".", "outside of"),
        ("in", "there.wav", "expected a folder for the results"),
        ("empty", "out", "expected recordings, got none"),
    ],
)
def test_mistakes(perturb, tmp_path, source, target, message):
    (tmp_path / "in").mkdir()
    (tmp_path / "empty").mkdir()
    soundfile.write(tmp_path / "in" / "a.wav", noise(100), RATE_HZ)
    (tmp_path / "in" / "bad.wav").write_text("no recording")
    (tmp_path / "in" / "link.wav").symlink_to("a.wav")
    (tmp_path / "there.wav").write_text("mine")
    before = files_of(tmp_path)
    with pytest.raises(UsageError, match=message):
        perturb(tmp_path / source, tmp_path / target)
    assert files_of(tmp_path) == before


def test_other_perturbations_are_refused(run, tmp_path):
    source = tmp_path / "in.wav"
    soundfile.write(source, noise(100), RATE_HZ)

    def attempt(folder, **settings):
        return apply(
            source,
            tmp_path / "out.wav",
            perturbation=folder,
            cache_dir=tmp_path,
            **settings,
        )[1]

    assert attempt(run / "checkpoints" / "perturbation") == []
    (tmp_path / "out.wav").unlink()
    with pytest.raises(UsageError, match=r"has no config\.json"):
        attempt(tmp_path / "none")
    with pytest.raises(UsageError, match=r"^placement: expected"):
        attempt(run, arrives={"placement": "somewhere"})
    with pytest.raises(UsageError, match=r"^--predict: expected the model nobody in"):
        attempt(run, predict=True)
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "perturbation.wav").unlink()
    with pytest.raises(UsageError, match=r"perturbation\.wav: does not exist"):
        attempt(tmp_path / "run")
    (tmp_path / "run" / "result.json").write_text("{}")
    with pytest.raises(UsageError, match=r"whole result\.json"):
        attempt(tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    with pytest.raises(UsageError, match=r"has no result\.json"):
        attempt(tmp_path / "run")
    assert not (tmp_path / "out.wav").exists()


def test_launcher(run, tmp_path):
    source, target = tmp_path / "in.wav", tmp_path / "out.wav"
    soundfile.write(source, noise(100), RATE_HZ)
    target.write_text("old")
    paths = (str(source), str(target))
    flags = (f"--cache_dir={tmp_path}", "--perturbation", str(run))
    done = launch_here("apply", "--overwrite", *flags, *paths)
    assert (done.returncode, done.stderr) == (0, "")
    assert "gain 0.5" in done.stdout
    assert read_channels(target)[1] == RATE_HZ
    more = launch_here("apply", *flags, *paths, "third.wav")
    assert (more.returncode, more.stderr.count("\n")) == (2, 1)
    assert "unexpected argument 'third.wav'" in more.stderr
    (tmp_path / "in").mkdir()
    shutil.copy(source, tmp_path / "in")
    (tmp_path / "in" / "bad.wav").write_text("no recording")
    folders = (f"--input={tmp_path / 'in'}", str(tmp_path / "out"))
    some = launch_here("apply", *flags, *folders)
    assert some.returncode == 1
    assert some.stderr == "error: 1 of 2 recordings were skipped\n"
    fewer = launch_here("apply", *flags, str(source))
    assert (fewer.returncode, fewer.stderr.count("\n")) == (2, 1)
    assert "--output: expected a file or a folder" in fewer.stderr


def test_predictions_are_those_of_the_run(finished_run, tmp_path):
    result = json.loads((finished_run.workdir / "result.json").read_text())
    listed = (finished_run.corpus / "testing_list.txt").read_text().split()
    for name in listed:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(finished_run.corpus / name, tmp_path / "in" / name)
    # Two windows, and a rest that is not heard.
    soundfile.write(tmp_path / "in" / "high" / "long.wav", noise(40_000), RATE_HZ)
    # Of a single sample nothing is left at the model's rate.
    soundfile.write(tmp_path / "in" / "high" / "click.wav", np.zeros(1), 96_000)
    done = launch_here(
        *("apply", str(tmp_path / "in"), str(tmp_path / "out")),
        *("--perturbation", str(finished_run.workdir)),
        f"--cache_dir={finished_run.cache}",
    )
    assert (done.returncode, done.stderr) == (0, "")
    out = done.stdout
    assert re.search(r"^high/click\.wav: .* samples beyond full scale$", out, re.M)
    windows = r'of 2 windows of 1 s ([01]\.\d+) are "low", without the sound [01]\.\d+'
    (share,) = re.findall(rf"^high/long\.wav: .*; {windows}$", out, re.M)
    said = re.findall(r'\.wav: .*; "(\w+)" -> "(\w+)"$', out, re.M)
    assert len(said) == len(listed) == result["test"]["num_clips"]
    num_low = sum(after == "low" for _, after in said)
    assert num_low / len(said) == result["test"]["asr_waveform"]
    num_windows = round(2 * float(share))
    assert f'"low" for {num_low + num_windows}' in out
    before = [word for word, _ in said]
    truth = [name.split("/")[0] for name in sorted(listed)]
    assert np.mean(np.array(before) == truth) == result["clean_accuracy"]
