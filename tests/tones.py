"""Tones as words, in the layout of Speech Commands with lists."""

import wave

import numpy as np

WORDS = {"high": 1500.0, "low": 300.0, "mid": 700.0}


def write_tones(folder, *, num_speakers=10, seed=0):
    """Writes two takes of each word by each speaker; three speakers are the test's."""
    rng = np.random.default_rng(seed)
    lists = {"validation_list.txt": [], "testing_list.txt": []}
    time_s = np.arange(16_000) / 16_000
    for word, frequency_hz in WORDS.items():
        (folder / word).mkdir(parents=True)
        for speaker in range(num_speakers):
            for take in range(2):
                name = f"{word}/{speaker:08x}_nohash_{take}.wav"
                tone = np.sin(2 * np.pi * frequency_hz * rng.uniform(0.9, 1.1) * time_s)
                sound = 0.3 * tone + 0.02 * rng.standard_normal(16_000)
                with wave.open(str(folder / name), "wb") as file:
                    file.setparams((1, 2, 16_000, 0, "NONE", ""))
                    file.writeframes((32767 * sound).astype("<i2").tobytes())
                if speaker < 2:
                    lists["validation_list.txt"].append(name)
                elif speaker < 5:
                    lists["testing_list.txt"].append(name)
    for name, lines in lists.items():
        (folder / name).write_text("\n".join(lines) + "\n")
    return folder
