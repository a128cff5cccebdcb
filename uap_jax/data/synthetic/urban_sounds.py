"""Ten classes of city sounds, in the order of UrbanSound8K's classID.

A sound takes two generators: `source` draws what its source is like, `rng` what it does
in one recording. The same `source` seed therefore gives the same dog; draws from
`source` never depend on `rng`.
"""

from collections.abc import Callable

import numpy as np

from uap_jax.data.synthetic.synthesis import (
    DURATION_S,
    NUM_SAMPLES,
    TIME_S,
    Rng,
    add,
    band,
    bursts,
    colored_noise,
    count_cycles,
    damped,
    log_uniform,
    make_gate,
    make_note,
    oscillate,
    regular_times,
    rolled_off,
    sloped,
    strike,
    unit,
    vowel,
    wander,
)


def air_conditioner(source: Rng, rng: Rng) -> np.ndarray:
    """Air through a grille over the hum of a fan."""
    gain = sloped(source.uniform(-1.3, -0.2)) * (
        1
        + source.uniform(0, 3)
        * band(log_uniform(source, 120, 2500), source.uniform(0.2, 1))
    )
    fan_hz = log_uniform(source, 20, 240)
    partials = source.random(12) / np.arange(1, 13) ** source.uniform(0.5, 2)
    hum_level = log_uniform(source, 0.08, 0.8)
    flutter_hz, flutter = log_uniform(source, 0.4, 8), source.uniform(0, 0.25)
    hum = oscillate(rng, partials, count_cycles(fan_hz * (1 + 0.003 * wander(rng, 2))))
    sound = colored_noise(rng, gain) + hum_level * unit(hum)
    return sound * np.maximum(1 + flutter * wander(rng, flutter_hz), 0.1)


def car_horn(source: Rng, rng: Rng) -> np.ndarray:
    """One to five steady blasts of two bright notes."""
    base_hz = log_uniform(source, 300, 520)
    ratio = source.uniform(1.16, 1.3)
    partials = rolled_off(source, base_hz, 20, (0.0, 0.6), peak_hz=(1800, 3600))
    attack_s = source.uniform(0.005, 0.02)
    envelope = np.zeros(NUM_SAMPLES)
    start_s = rng.uniform(0, 0.8)
    for _ in range(rng.integers(1, 6)):
        length_s = log_uniform(rng, 0.15, 1.8)
        gate = make_gate(start_s, length_s, attack_s, 0.03)
        envelope = np.maximum(envelope, gate)
        start_s += length_s + rng.uniform(0.06, 0.4)
    bend = 1 + 0.002 * wander(rng, 3) - 0.03 * (1 - envelope)
    notes = oscillate(rng, partials, count_cycles(base_hz * bend))
    notes += oscillate(rng, partials, count_cycles(base_hz * ratio * bend))
    return envelope * notes


def children_playing(source: Rng, rng: Rng) -> np.ndarray:
    """Several high voices that call, chatter and scream."""
    voices_hz = [log_uniform(source, 230, 560) for _ in range(source.integers(2, 6))]
    scream_share = source.uniform(0, 0.3)
    formants_hz = source.uniform((500, 1300, 2600), (1100, 2700, 4200))
    breath = source.uniform(0.02, 0.25)
    sound = np.zeros(NUM_SAMPLES)
    for voice_hz in voices_hz:
        loudness = log_uniform(rng, 0.2, 1)
        at_s = rng.uniform(-0.3, 1)
        while at_s < DURATION_S:
            screams = rng.random() < scream_share
            length_s = rng.uniform(0.3, 1.1) if screams else rng.uniform(0.1, 0.4)
            high_hz = voice_hz * (
                rng.uniform(2, 3.2) if screams else rng.uniform(0.8, 1.5)
            )
            partials = vowel(formants_hz * rng.uniform(0.75, 1.3, 3), high_hz)
            bend = np.exp2(rng.uniform(-0.5, 0.5, 3))
            note = make_note(rng, high_hz * bend, length_s, partials, noise=breath)
            add(sound, loudness * note, at_s)
            at_s += length_s + (
                rng.uniform(0, 0.12) if rng.random() < 0.6 else rng.uniform(0.2, 1.2)
            )
    return sound


def dog_bark(source: Rng, rng: Rng) -> np.ndarray:
    """Barks, alone or in rows."""
    pitch_hz = log_uniform(source, 220, 900)
    length_s = log_uniform(source, 0.07, 0.3)
    noise = source.uniform(0.1, 0.5)
    formants_hz = source.uniform((400, 1000, 2200), (900, 2200, 3800))
    gap_s = log_uniform(source, 0.12, 0.9)
    bend = np.array([source.uniform(0.6, 0.9), 1.1, source.uniform(0.5, 0.8)])
    partials = vowel(formants_hz, pitch_hz)
    sound = np.zeros(NUM_SAMPLES)
    at_s = rng.uniform(0, 1)
    for _ in range(rng.integers(1, 9)):
        note = make_note(
            rng,
            pitch_hz * bend * rng.uniform(0.9, 1.1),
            length_s * rng.uniform(0.75, 1.3),
            partials,
            noise=noise,
        )
        add(sound, note * rng.uniform(0.5, 1), at_s)
        at_s += length_s + gap_s * rng.uniform(0.6, 1.8)
    return sound


def drilling(source: Rng, rng: Rng) -> np.ndarray:
    """The buzz and whine of a motor, in some drills with hammering."""
    motor_hz = log_uniform(source, 60, 320)
    whine_hz = log_uniform(source, 900, 5000)
    buzz = rolled_off(source, motor_hz, 24, (0.3, 1.4), peak_hz=(300, 3000))
    whine_level = log_uniform(source, 0.2, 1.2)
    noise_level = log_uniform(source, 0.2, 1.2)
    gain = sloped(source.uniform(-0.7, 0.3)) * (
        1 + 2 * band(log_uniform(source, 800, 5000), 0.6)
    )
    hammer_hz = log_uniform(source, 14, 55)
    hammering = source.choice([0.0, source.uniform(0.3, 1)], p=[0.55, 0.45])
    drop = source.uniform(0, 0.25)
    envelope = bursts(rng, (0.5, 3.5), (0.1, 0.8), attack_s=rng.uniform(0.02, 0.3))
    speed = (1 - drop * (1 - envelope)) * (1 + 0.02 * wander(rng, 3))
    noise = colored_noise(rng, gain)
    phase = count_cycles(hammer_hz * speed) % 1
    knocks = 1 - hammering + hammering * 3 * np.exp(-6 * phase)
    sound = unit(oscillate(rng, buzz, count_cycles(motor_hz * speed)))
    sound += whine_level * np.sin(2 * np.pi * count_cycles(whine_hz * speed))
    return envelope * (sound + noise_level * noise * knocks)


def engine_idling(source: Rng, rng: Rng) -> np.ndarray:
    """Firing cylinders that shake a body of low resonances."""
    firing_hz = log_uniform(source, 12, 60)
    pattern = source.uniform(0.5, 1, source.integers(1, 7))
    kernel = damped(source, 5, (45, 500), (0.01, 0.08), noise=source.uniform(0, 0.3))
    roughness = log_uniform(source, 0.005, 0.08)
    noise_level = log_uniform(source, 0.08, 0.6)
    gain = sloped(source.uniform(-1.4, -0.4))
    drift = source.uniform(0.005, 0.05)
    times_s = regular_times(rng, firing_hz, roughness, drift)
    gains = np.resize(pattern, len(times_s)) * rng.uniform(0.8, 1.2, len(times_s))
    sound = unit(strike(times_s, gains, kernel))
    return sound + noise_level * colored_noise(rng, gain)


def gun_shot(source: Rng, rng: Rng) -> np.ndarray:
    """Single shots or a burst of them."""
    burst = source.random() < 0.3
    gap_s = source.uniform(0.07, 0.16) if burst else log_uniform(source, 0.3, 1.5)
    num_most = 12 if burst else 4
    length = 8000
    decay_s = log_uniform(source, 0.008, 0.06)
    tail_s = log_uniform(source, 0.06, 0.4)
    tail_level = log_uniform(source, 0.03, 0.5)
    boom_hz, boom_level = log_uniform(source, 60, 250), source.uniform(0, 1.5)
    corner = int(log_uniform(source, 2, 40))
    time_s = TIME_S[:length]
    white = source.standard_normal(length)
    dark = np.convolve(white, np.hanning(corner + 2)[1:-1], mode="same")
    kernel = white * np.exp(-time_s / decay_s)
    kernel += tail_level * unit(dark) * np.exp(-3 * time_s / tail_s)
    kernel += boom_level * np.sin(2 * np.pi * boom_hz * time_s) * np.exp(-time_s / 0.03)
    kernel[-800:] *= np.linspace(1, 0, 800)
    count = rng.integers(1, num_most + 1)
    gaps_s = gap_s * rng.uniform(*((0.95, 1.05) if burst else (0.5, 1.8)), count)
    times_s = rng.uniform(0, 1) + np.cumsum(gaps_s) - gaps_s[0]
    return strike(times_s, rng.uniform(0.6, 1, count), kernel)


def jackhammer(source: Rng, rng: Rng) -> np.ndarray:
    """Fast blows of metal on stone, in some sources over a compressor."""
    blows_hz = log_uniform(source, 12, 32)
    kernel = damped(
        source, 6, (600, 5500), (0.003, 0.02), noise=log_uniform(source, 0.5, 3)
    )
    roughness = log_uniform(source, 0.004, 0.04)
    hiss = log_uniform(source, 0.02, 0.3)
    gain = sloped(source.uniform(-1, 0))
    motor = source.uniform(0, 0.3)
    motor_hz = log_uniform(source, 20, 60)
    envelope = bursts(rng, (0.6, 3.5), (0.1, 0.8), attack_s=0.02)
    times_s = regular_times(rng, blows_hz, roughness, 0.02)
    gains = np.interp(times_s, TIME_S, envelope) * rng.uniform(0.6, 1, len(times_s))
    sound = unit(strike(times_s, gains, kernel))
    sound += hiss * colored_noise(rng, gain)
    partials = 1 / np.arange(1, 11)
    return sound + motor * unit(oscillate(rng, partials, count_cycles(motor_hz)))


def siren(source: Rng, rng: Rng) -> np.ndarray:
    """A nearly pure pitch that wails, yelps or alternates."""
    low_hz = log_uniform(source, 450, 800)
    kind = source.choice(["wail", "yelp", "two_tone"])
    high_hz = low_hz * (
        source.uniform(1.3, 1.6) if kind == "two_tone" else source.uniform(1.7, 2.5)
    )
    period_s = {
        "wail": source.uniform(1.8, 5),
        "yelp": source.uniform(0.2, 0.5),
        "two_tone": source.uniform(0.5, 1.4),
    }[kind]
    partials = rolled_off(source, high_hz, 5, (1.5, 3), peak_hz=(600, 1800))
    doppler = source.uniform(0, 0.04)
    place = TIME_S / period_s + rng.random()
    if kind == "two_tone":
        rising = 0.5 + 0.5 * np.tanh(30 * np.sin(2 * np.pi * place))
    else:
        rising = 0.5 - 0.5 * np.cos(2 * np.pi * place)
    frequency_hz = low_hz * (high_hz / low_hz) ** rising
    frequency_hz *= 1 + doppler * np.tanh(2 * (TIME_S - rng.uniform(0, DURATION_S)))
    swell = np.exp(0.3 * wander(rng, 0.8))
    sound = oscillate(rng, partials, count_cycles(frequency_hz)) * swell
    return sound * make_gate(rng.uniform(-1.5, 0.8), rng.uniform(2.5, 7), 0.1, 0.3)


def street_music(source: Rng, rng: Rng) -> np.ndarray:
    """A tune over bass and chords, with drums on the beat."""
    root_hz = log_uniform(source, 100, 220)
    scale = source.choice(
        [[0, 2, 4, 5, 7, 9, 11], [0, 2, 3, 5, 7, 8, 10], [0, 2, 4, 7, 9, 12, 14]]
    )
    beat_s = source.uniform(0.32, 0.65)
    tune = source.uniform(0.3, 1, 12) / np.arange(1, 13) ** source.uniform(0.8, 2)
    chord = source.uniform(0.3, 1, 8) / np.arange(1, 9) ** source.uniform(0.8, 2)
    plucked = source.random() < 0.5
    chord_level, bass_level = source.uniform(0.3, 0.8), source.uniform(0.5, 1.5)
    drum_level = log_uniform(source, 0.4, 1.2)
    octave = source.choice([2, 4])
    kick = damped(source, 2, (50, 130), (0.03, 0.1), noise=0.1)
    cymbal = damped(source, 4, (3500, 7500), (0.01, 0.05), noise=2)
    sound = np.zeros(NUM_SAMPLES)
    at_s = -rng.random() * beat_s
    degree = int(rng.integers(7))
    times_s = []
    while at_s < DURATION_S:
        if len(times_s) % 2 == 0:
            step = int(rng.integers(7))
            bass_hz = root_hz / 2 * 2 ** (scale[step] / 12)
            note = make_note(rng, bass_hz, 2 * beat_s, chord, plucked=True)
            add(sound, bass_level * note, at_s)
            for third in (0, 2, 4):
                pitch_hz = root_hz * 2 ** (scale[(step + third) % 7] / 12)
                note = make_note(rng, pitch_hz, 2 * beat_s, chord, plucked=plucked)
                add(sound, chord_level * note, at_s)
        for part in range(int(rng.choice([1, 2, 2, 4]))):
            degree = int(np.clip(degree + rng.integers(-2, 3), 0, 6))
            pitch_hz = octave * root_hz * 2 ** (scale[degree] / 12)
            length_s = beat_s * rng.uniform(0.4, 1.2)
            note = make_note(rng, pitch_hz, length_s, tune, plucked=plucked)
            add(sound, note, at_s + part * beat_s / 4)
        times_s.append(at_s)
        at_s += beat_s
    beats_s = np.array(times_s)
    kicks = strike(beats_s, rng.uniform(0.5, 1, len(beats_s)), kick)
    halves_s = np.concatenate([beats_s, beats_s + beat_s / 2])
    gains = rng.uniform(0.3, 1, len(halves_s)) * (rng.random(len(halves_s)) < 0.85)
    cymbals = strike(halves_s, gains, cymbal)
    return unit(sound) + drum_level * (unit(kicks) + unit(cymbals))


# In the order of UrbanSound8K's classID.
SOUNDS: tuple[Callable[[Rng, Rng], np.ndarray], ...] = (
    air_conditioner,
    car_horn,
    children_playing,
    dog_bark,
    drilling,
    engine_idling,
    gun_shot,
    jackhammer,
    siren,
    street_music,
)
