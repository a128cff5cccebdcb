"""Reading and writing recordings, including bad ones."""

import pickle
import struct

import numpy as np
import pytest
import soundfile
import soxr

from uap_jax.audio import files

RATE_HZ = 16000


def sine(rate_hz, *, frequency_hz=440.0, num_samples=None, amplitude=0.5):
    time_s = np.arange(num_samples or rate_hz) / rate_hz
    return (amplitude * np.sin(2 * np.pi * frequency_hz * time_s)).astype(np.float32)


@pytest.mark.parametrize(
    ("subtype", "tolerance"),
    [
        ("PCM_U8", 2**-7),
        ("PCM_16", 2**-15),
        ("PCM_24", 2**-23),
        ("PCM_32", 2**-23),
        ("FLOAT", 0.0),
        ("DOUBLE", 0.0),
    ],
)
def test_reads_wav_of_every_depth(tmp_path, subtype, tolerance):
    path, expected = tmp_path / "a.wav", sine(RATE_HZ)
    soundfile.write(path, expected, RATE_HZ, subtype=subtype)
    waveform = files.read_audio(path, sample_rate_hz=RATE_HZ)
    assert waveform.dtype == np.float32
    np.testing.assert_allclose(waveform, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("name", "tolerance"), [("a.flac", 2**-15), ("a.ogg", 0.05), ("a.mp3", 0.05)]
)
def test_reads_compressed_formats(tmp_path, name, tolerance):
    path, expected = tmp_path / name, sine(RATE_HZ)
    soundfile.write(path, expected, RATE_HZ)
    waveform = files.read_audio(path, sample_rate_hz=RATE_HZ)
    assert waveform.shape == expected.shape
    np.testing.assert_allclose(
        waveform[1000:-1000], expected[1000:-1000], atol=tolerance
    )


def test_channels(tmp_path, monkeypatch):
    path = tmp_path / "stereo.wav"
    channels = np.stack([sine(44100), sine(44100, frequency_hz=1000)], axis=1)
    files.write_wav(path, channels, sample_rate_hz=44100, subtype="FLOAT")
    again, rate_hz = files.read_channels(path)
    np.testing.assert_array_equal(again, channels)
    assert rate_hz == 44100
    mixed = files.read_audio(path, sample_rate_hz=44100)
    np.testing.assert_allclose(mixed, channels.mean(axis=1), atol=1e-7)
    monkeypatch.setattr(files, "_MAX_SAMPLES", 44100)
    with pytest.raises(files.AudioFileError, match="too long"):
        files.read_channels(path)


@pytest.mark.parametrize("rate_hz", [8000, 44100, 96000])
def test_resamples_to_the_same_sound(tmp_path, rate_hz):
    path = tmp_path / "a.wav"
    soundfile.write(path, sine(rate_hz), rate_hz, subtype="FLOAT")
    waveform = files.read_audio(path, sample_rate_hz=RATE_HZ)
    assert waveform.shape == (RATE_HZ,)
    expected = sine(RATE_HZ)
    np.testing.assert_allclose(waveform[500:-500], expected[500:-500], atol=1e-3)
    if rate_hz > 24_000:
        # What the lower rate cannot hold is removed.
        soundfile.write(path, sine(rate_hz, frequency_hz=12000), rate_hz, "FLOAT")
        waveform = files.read_audio(path, sample_rate_hz=RATE_HZ)
        assert np.abs(waveform[500:-500]).max() < 1e-3


def test_reads_long_files_by_blocks(tmp_path, monkeypatch):
    path, expected = tmp_path / "a.flac", sine(RATE_HZ, num_samples=3000)
    soundfile.write(path, expected, RATE_HZ)
    whole = files.read_audio(path, sample_rate_hz=RATE_HZ)
    for block in (999, 1000, 1500):
        monkeypatch.setattr(files, "_BLOCK_FRAMES", block)
        waveform = files.read_audio(path, sample_rate_hz=RATE_HZ)
        np.testing.assert_array_equal(waveform, whole)


def test_keeps_float_samples_beyond_full_scale(tmp_path):
    path, loud = tmp_path / "loud.wav", sine(RATE_HZ, amplitude=3.0)
    soundfile.write(path, loud, RATE_HZ, subtype="FLOAT")
    waveform = files.read_audio(path, sample_rate_hz=RATE_HZ)
    np.testing.assert_array_equal(waveform, loud)
    assert files.to_pcm16(waveform).max() == 32767


def test_num_samples_cuts_and_pads_the_end(tmp_path):
    path, whole = tmp_path / "a.wav", sine(RATE_HZ, num_samples=1000)
    soundfile.write(path, whole, RATE_HZ, subtype="FLOAT")
    cut = files.read_audio(path, sample_rate_hz=RATE_HZ, num_samples=600)
    padded = files.read_audio(path, sample_rate_hz=RATE_HZ, num_samples=1600)
    np.testing.assert_array_equal(cut, whole[:600])
    np.testing.assert_array_equal(padded, np.append(whole, np.zeros(600)))
    assert padded.dtype == np.float32


@pytest.mark.parametrize("rate_hz", [8000, 11025, 44100, 96000])
def test_num_samples_resamples_no_more_than_it_needs(tmp_path, monkeypatch, rate_hz):
    path = tmp_path / "a.wav"
    noise = np.random.default_rng(0).uniform(-1, 1, 2 * rate_hz)
    soundfile.write(path, noise, rate_hz, subtype="FLOAT")
    whole = files.read_audio(path, sample_rate_hz=RATE_HZ)
    lengths = record_resampling(monkeypatch)
    cut = files.read_audio(path, sample_rate_hz=RATE_HZ, num_samples=3000)
    np.testing.assert_array_equal(cut, whole[:3000])
    assert 3000 * rate_hz / RATE_HZ < lengths[0] < len(noise)


def record_resampling(monkeypatch):
    lengths = []

    def resample(waveform, *arguments, **settings):
        lengths.append(len(waveform))
        return original(waveform, *arguments, **settings)

    original = soxr.resample
    monkeypatch.setattr(soxr, "resample", resample)
    return lengths


def write_with_rate(path, rate_hz, *, num_samples=20000):
    files.write_wav(path, sine(RATE_HZ, num_samples=num_samples), sample_rate_hz=1)
    content = bytearray(path.read_bytes())
    content[24:28] = struct.pack("<I", rate_hz)
    path.write_bytes(content)


def test_header_with_an_absurd_rate_takes_no_memory(tmp_path, monkeypatch):
    path = tmp_path / "a.wav"
    write_with_rate(path, 1)
    lengths = record_resampling(monkeypatch)
    waveform = files.read_audio(path, sample_rate_hz=RATE_HZ, num_samples=100)
    assert waveform.shape == (100,)
    assert lengths[0] < 1100
    message = "a.wav: is too long at 16000 Hz"
    with pytest.raises(files.AudioFileError, match=message):
        files.read_audio(path, sample_rate_hz=RATE_HZ)


@pytest.mark.parametrize("rate_hz", [0, 2**32 - 1, 2**31 - 1])
def test_header_with_an_impossible_rate(tmp_path, rate_hz):
    path = tmp_path / "a.wav"
    write_with_rate(path, rate_hz)
    with pytest.raises(files.AudioFileError):
        files.read_audio(path, sample_rate_hz=RATE_HZ, num_samples=100)


def test_name_that_is_not_utf8(tmp_path):
    path = tmp_path / "caf\udce9.wav"
    files.write_wav(path, sine(RATE_HZ), sample_rate_hz=RATE_HZ)
    assert len(files.read_audio(path, sample_rate_hz=RATE_HZ)) == RATE_HZ


def test_wav_cut_short_gives_what_is_left(tmp_path):
    path, whole = tmp_path / "a.wav", sine(RATE_HZ)
    files.write_wav(path, whole, sample_rate_hz=RATE_HZ)
    content = path.read_bytes()
    path.write_bytes(content[: 44 + 2 * 5000])
    waveform = files.read_audio(path, sample_rate_hz=RATE_HZ)
    np.testing.assert_array_equal(waveform, files.to_pcm16(whole[:5000]) / 32768)


@pytest.mark.parametrize("num_channels", [1, 2])
def test_flac_without_a_length_in_its_header(tmp_path, monkeypatch, num_channels):
    path = tmp_path / "a.flac"
    soundfile.write(path, np.stack([sine(RATE_HZ)] * num_channels, 1), RATE_HZ)
    whole = files.read_audio(path, sample_rate_hz=RATE_HZ)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # With the next four bytes the number of samples.
    content[22:26] = bytes(4)
    path.write_bytes(content)
    for block_frames in (RATE_HZ * num_channels, 3000):
        monkeypatch.setattr(files, "_BLOCK_FRAMES", block_frames)
        waveform = files.read_audio(path, sample_rate_hz=RATE_HZ)
        np.testing.assert_array_equal(waveform, whole)
        assert files.read_channels(path)[0].shape == (RATE_HZ, num_channels)
    assert files.read_header(path) == (0, RATE_HZ)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(files.AudioFileError, match="cannot be read as audio"):
        files.read_audio(path, sample_rate_hz=RATE_HZ)


def write_sound(path, samples=None, *, rate_hz=RATE_HZ, end=None, **settings):
    samples = sine(RATE_HZ) if samples is None else np.asarray(samples)
    soundfile.write(path, samples, rate_hz, **settings)
    path.write_bytes(path.read_bytes()[:end])


def write_flac_that_promises_too_much(path):
    write_sound(path, format="FLAC")
    content = bytearray(path.read_bytes())
    content[22:26] = b"\xff\xff\xff\xff"  # Low bits of the number of samples.
    path.write_bytes(content)


NOISE = np.random.default_rng(0).uniform(-1, 1, RATE_HZ)


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.touch(), "is empty"),
        (lambda path: path.write_text("no recording"), "cannot be read as audio"),
        (lambda path: write_sound(path, end=44), "holds no samples"),
        (lambda path: write_sound(path, end=20), "cannot be read as audio"),
        (lambda path: write_sound(path, []), "holds no samples"),
        (
            lambda path: write_sound(path, [0.0], rate_hz=96000),
            "holds no samples at 16000 Hz",
        ),
        (lambda path: write_sound(path, [0.0, np.nan], subtype="FLOAT"), "NaN"),
        (lambda path: write_sound(path, [-np.inf], subtype="FLOAT"), "infinite"),
        (
            lambda path: write_sound(path, NOISE, format="FLAC", end=5000),
            "cannot be read as audio",
        ),
        (write_flac_that_promises_too_much, "is too long by its header"),
    ],
)
def test_bad_file_is_named_in_one_line(tmp_path, write, reason):
    path = tmp_path / "bad.wav"
    write(path)
    with pytest.raises(files.AudioFileError) as caught:
        files.read_audio(path, sample_rate_hz=RATE_HZ, num_samples=100)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert reason in message
    assert "\n" not in message
    assert message.count(str(path)) == 1
    (tmp_path / "a.raw").write_bytes(bytes(100))
    with pytest.raises(files.AudioFileError, match="cannot be read as audio"):
        files.read_audio(tmp_path / "a.raw", sample_rate_hz=RATE_HZ)


def test_error_survives_pickling():
    error = pickle.loads(pickle.dumps(files.AudioFileError("a.wav", "is empty")))
    assert isinstance(error, ValueError)
    assert str(error) == "a.wav: is empty"


def test_pcm16_round_trips_every_value():
    values = np.arange(-32768, 32768)
    pcm = files.to_pcm16((values / 32768).astype(np.float32))
    assert pcm.dtype == np.int16
    np.testing.assert_array_equal(pcm, values)
    waveform = np.array([0.6, -0.6, 1.4, 32768, 40000, -40000]) / 32768
    rounded = [1, -1, 1, 32767, 32767, -32768]
    np.testing.assert_array_equal(files.to_pcm16(waveform), rounded)


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_written_recordings_read_back_exactly(tmp_path, subtype):
    path, again = tmp_path / "a.wav", tmp_path / "b.wav"
    waveform = np.random.default_rng(0).uniform(-1.2, 1.2, 5000).astype(np.float32)
    for target in (path, again):
        files.write_wav(target, waveform, sample_rate_hz=44100, subtype=subtype)
    assert path.read_bytes() == again.read_bytes()
    assert soundfile.info(path).subtype == subtype
    expected = files.to_pcm16(waveform) / 32768 if subtype == "PCM_16" else waveform
    np.testing.assert_array_equal(
        files.read_audio(path, sample_rate_hz=44100), expected
    )


@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (np.array([0.0, np.nan]), "finite"),
        (np.array([0.0, np.inf]), "finite"),
        (np.array([1, 2], np.int16), "floating-point samples, got int16"),
    ],
)
def test_pcm16_refuses(waveform, message):
    with pytest.raises(ValueError, match=message):
        files.to_pcm16(waveform)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"waveform": np.zeros((2, 3, 4))}, "waveform: expected"),
        ({"waveform": np.zeros(0)}, "waveform: expected"),
        ({"waveform": np.array([np.nan])}, "waveform: expected finite"),
        ({"subtype": "PCM_24"}, "subtype: expected"),
        ({"sample_rate_hz": 0}, "sample_rate_hz: expected a positive"),
    ],
)
def test_write_refuses(tmp_path, changes, message):
    arguments = {"waveform": np.zeros(3), "sample_rate_hz": RATE_HZ} | changes
    with pytest.raises(ValueError, match=message):
        files.write_wav(tmp_path / "a.wav", **arguments)
    with pytest.raises(ValueError, match="path: expected an existing folder"):
        files.write_wav(tmp_path / "b" / "a.wav", np.zeros(3), sample_rate_hz=RATE_HZ)
    assert not list(tmp_path.iterdir())
