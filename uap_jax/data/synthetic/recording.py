"""How a sound becomes a recording: noise, rooms, channels and levels."""

import dataclasses

import numpy as np

SAMPLE_RATE_HZ = 16000
NUM_SAMPLES = 16000

NOISE_KINDS = ("white", "pink", "brown", "low_passed", "hum", "babble")


@dataclasses.dataclass(frozen=True)
class Conditions:
    """Difficulty of the recordings; a pair is the range of a uniform draw."""

    rate_wpm: tuple[float, float] = (125.0, 180.0)  # Words per minute of a speaker.
    # Pitch of a speaker and its liveliness, 0..100; 50 is the voice's default.
    pitch: tuple[float, float] = (30.0, 70.0)
    pitch_range: tuple[float, float] = (30.0, 70.0)
    rate_change: tuple[float, float] = (0.93, 1.07)  # Factor from clip to clip.
    pitch_change: tuple[float, float] = (-5.0, 5.0)  # Added from clip to clip.
    # Middle of the word after that of the clip, if there is room.
    offcentre_s: tuple[float, float] = (-0.12, 0.12)
    snr_db: tuple[float, float] = (18.0, 40.0)  # While the word lasts.
    # Peak of a clip with and without speech.
    level_dbfs: tuple[float, float] = (-10.0, -1.0)
    silence_level_dbfs: tuple[float, float] = (-60.0, -6.0)
    silence_zero_share: float = 0.1  # Share of clips without speech that are all zero.
    # Slope of the frequency response around 1 kHz.
    tilt_db_per_octave: tuple[float, float] = (-2.0, 2.0)
    telephone_share: float = 0.05  # Share of clips with a band of about 300-3400 Hz.
    reverb_share: float = 0.1  # Share of clips spoken in a room.
    reverb_s: tuple[float, float] = (0.1, 0.5)  # Time of decay by 60 dB.
    reverb_db: tuple[float, float] = (-15.0, -3.0)  # Echo over direct sound.


def record_word(
    word: np.ndarray,
    rng: np.random.Generator,
    babble: np.ndarray,
    conditions: Conditions,
) -> np.ndarray:
    """Returns a word at a random moment, in a room, with noise, as int16."""
    room = NUM_SAMPLES - len(word)
    late = round(rng.uniform(*conditions.offcentre_s) * SAMPLE_RATE_HZ)
    onset = min(max(room // 2 + late, 0), room)
    speech = np.zeros(NUM_SAMPLES)
    speech[onset : onset + len(word)] = word
    speech_rms = np.sqrt(np.mean(np.square(word, dtype=np.float64)))
    # Twice the length, so that echoes do not wrap around to the start.
    spectrum = np.fft.rfft(speech, 2 * NUM_SAMPLES)
    if rng.random() < conditions.reverb_share:
        spectrum *= room_response(rng, conditions)
    noise = make_noise(rng.choice(NOISE_KINDS), rng, babble)
    noise *= speech_rms * amplitude(-rng.uniform(*conditions.snr_db))
    spectrum += np.fft.rfft(noise, 2 * NUM_SAMPLES)
    spectrum *= channel_response(rng, conditions)
    sound = np.fft.irfft(spectrum)[:NUM_SAMPLES]
    return to_pcm(sound, rng.uniform(*conditions.level_dbfs))


def record_silence(
    rng: np.random.Generator, babble: np.ndarray, conditions: Conditions
) -> np.ndarray:
    """Returns background sound alone, or zeros, as int16."""
    level_dbfs = rng.uniform(*conditions.silence_level_dbfs)
    noise = make_noise(rng.choice(NOISE_KINDS), rng, babble)
    if rng.random() < conditions.silence_zero_share:
        return np.zeros(NUM_SAMPLES, np.int16)
    return to_pcm(noise, level_dbfs)


def room_response(
    rng: np.random.Generator, conditions: Conditions, num_samples: int = NUM_SAMPLES
) -> np.ndarray:
    """Direct sound and an exponentially decaying echo, `[N + 1]` complex."""
    time_s = np.arange(num_samples) / SAMPLE_RATE_HZ
    decay = np.exp(-np.log(1000) * time_s / rng.uniform(*conditions.reverb_s))
    echo = rng.standard_normal(num_samples) * decay
    # Not norm(), whose BLAS threads would wait on each other in worker threads.
    echo *= amplitude(rng.uniform(*conditions.reverb_db)) / np.sqrt(
        np.sum(np.square(echo))
    )
    return 1 + np.fft.rfft(echo, 2 * num_samples)


def channel_response(
    rng: np.random.Generator, conditions: Conditions, num_samples: int = NUM_SAMPLES
) -> np.ndarray:
    """Gains of a microphone or a telephone, `[N + 1]`."""
    frequency_hz = np.fft.rfftfreq(2 * num_samples, 1 / SAMPLE_RATE_HZ)
    octaves = np.log2(np.maximum(frequency_hz, 60.0) / 1000)
    gain = amplitude(rng.uniform(*conditions.tilt_db_per_octave) * octaves)
    low_hz, high_hz = rng.uniform(200, 400), rng.uniform(2800, 3800)
    if rng.random() < conditions.telephone_share:
        gain /= 1 + (low_hz / np.maximum(frequency_hz, 1.0)) ** 6
        gain /= 1 + (frequency_hz / high_hz) ** 12
    return gain


def make_noise(kind: str, rng: np.random.Generator, babble: np.ndarray) -> np.ndarray:
    """Returns `[N]` background sound of RMS 1."""
    frequency_hz = np.maximum(np.fft.rfftfreq(NUM_SAMPLES, 1 / SAMPLE_RATE_HZ), 20.0)
    if kind == "babble":
        starts = rng.integers(len(babble), size=2)
        noise = sum(np.roll(babble, -start)[:NUM_SAMPLES] for start in starts)
    elif kind == "hum":
        # A clip lasts 1 s, so a multiple of 1 Hz is one bin.
        harmonics = np.arange(1, 21)
        spectrum = 0.02 * np.fft.rfft(rng.standard_normal(NUM_SAMPLES))
        spectrum[rng.integers(48, 62) * harmonics] += (
            NUM_SAMPLES
            * (rng.random(len(harmonics)) / harmonics)
            * np.exp(2j * np.pi * rng.random(len(harmonics)))
        )
        noise = np.fft.irfft(spectrum)
    else:
        corner_hz = rng.uniform(300, 3000)
        gain = {
            "white": np.ones_like(frequency_hz),
            "pink": frequency_hz**-0.5,
            "brown": 1 / frequency_hz,
            "low_passed": 1 / (1 + (frequency_hz / corner_hz) ** 4),
        }[kind]
        white = np.fft.rfft(rng.standard_normal(NUM_SAMPLES))
        noise = np.fft.irfft(white * gain)
    return noise / np.sqrt(np.mean(np.square(noise)))


def to_pcm(sound: np.ndarray, level_dbfs: float) -> np.ndarray:
    """Returns the sound as int16, its peak at a level."""
    gain = 32767 * amplitude(level_dbfs) / np.abs(sound).max()
    return np.round(sound * gain).astype(np.int16)


def check_at_least(low: int, **settings: int) -> None:
    """Raises ValueError for a setting below its range."""
    for name, value in settings.items():
        if value < low:
            raise ValueError(f"{name}: expected at least {low}, got {value}")


def amplitude(level_db):
    """Returns the factor of a level in dB."""
    return 10 ** (level_db / 20)
