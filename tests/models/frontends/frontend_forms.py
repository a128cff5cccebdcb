"""Front ends in NumPy and float64, one clip at a time, as their formulas read."""

import numpy as np
from scipy.fft import dct

EPS = float(np.finfo(np.float32).eps)


def mel(hz):
    return 1127 * np.log(1 + np.asarray(hz) / 700)


def kaldi_bank(num_mels, num_fft, rate, low, high):
    """Triangles over mels, `[num_mels, num_fft // 2 + 1]`."""
    edges = np.linspace(mel(low), mel(high), num_mels + 2)
    bins = mel(np.arange(num_fft // 2 + 1) * rate / num_fft)
    bank = np.zeros((num_mels, len(bins)))
    for i, (left, centre, right) in enumerate(
        zip(edges, edges[1:], edges[2:], strict=False)
    ):
        for j, bin_mel in enumerate(bins):
            if left < bin_mel <= centre:
                bank[i, j] = (bin_mel - left) / (centre - left)
            elif centre < bin_mel < right:
                bank[i, j] = (right - bin_mel) / (right - centre)
    return bank


def kaldi_fbank(x, *, rate, num_mels, power=0.85, scale=1.0, low=20.0):
    """Windows of Hann to a power: 0.85 for Povey's, 1 for AST's."""
    size, hop = rate // 40, rate // 100
    num_fft = 2 ** int(np.ceil(np.log2(size)))
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / (size - 1))) ** power
    bank = kaldi_bank(num_mels, num_fft, rate, low, rate / 2)
    rows = []
    for start in range(0, len(x) - size + 1, hop):
        frame = scale * x[start : start + size].astype(np.float64)
        frame = frame - frame.mean()
        frame = frame - 0.97 * np.append(frame[0], frame[:-1])
        spectrum = np.abs(np.fft.rfft(frame * window, num_fft)) ** 2
        rows.append(np.log(np.maximum(bank @ spectrum, EPS)))
    return np.array(rows)


def ast(x, *, rate=16_000, num_mels=128, num_frames=1024):
    rows = kaldi_fbank(x, rate=rate, num_mels=num_mels, power=1.0)[:num_frames]
    rows = np.concatenate([rows, np.zeros((num_frames - len(rows), num_mels))])
    return (rows + 4.2677393) / (2 * 4.5689974)


def whisper(x, bank, *, num_samples=480_000):
    """`bank` is that of librosa, `[num_mels, 201]`."""
    x = np.append(x.astype(np.float64), np.zeros(max(0, num_samples - len(x))))
    x = np.pad(x[:num_samples], 200, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    frames = [x[160 * t : 160 * t + 400] for t in range(num_samples // 160)]
    power = np.abs(np.fft.rfft(np.array(frames) * window)) ** 2
    levels = np.log10(np.maximum(bank @ power.T, 1e-10))
    return (np.maximum(levels, levels.max() - 8) + 4) / 4


def wav2vec2(x):
    x = x.astype(np.float64)
    return (x - x.mean()) / np.sqrt(x.var() + 1e-7)


def kaldi_mfcc(x, *, num_mfcc=13, **settings):
    levels = kaldi_fbank(x, **settings)
    cepstra = dct(levels, type=2, norm="ortho", axis=1)[:, :num_mfcc]
    return cepstra * (1 + 11 * np.sin(np.pi * np.arange(num_mfcc) / 22))


def librosa_mfcc(x, bank, *, num_fft, size, hop, num_mfcc):
    """`bank` is that of librosa; Hann windows of `size` in the middle of `num_fft`."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    window = np.pad(window, (num_fft - size) // 2)
    x = np.pad(x.astype(np.float64), num_fft // 2)
    starts = range(0, len(x) - num_fft + 1, hop)
    frames = np.array([x[start : start + num_fft] * window for start in starts])
    power = np.abs(np.fft.rfft(frames)) ** 2
    levels = 10 * np.log10(np.maximum(power @ bank.T, 1e-10))
    levels = np.maximum(levels, levels.max() - 80)
    return dct(levels, type=2, norm="ortho", axis=1)[:, :num_mfcc].T


def speech_features_mfcc(x, *, rate, num_mels, num_fft=512, size=400, hop=160):
    """With the logarithm of the energy first, and the lifter of 22."""
    x = x.astype(np.float64)
    x = np.append(x[0], x[1:] - 0.97 * x[:-1])
    num_frames = 1 + int(np.ceil((len(x) - size) / hop))
    x = np.append(x, np.zeros((num_frames - 1) * hop + size - len(x)))
    frames = [x[hop * t : hop * t + size] for t in range(num_frames)]
    power = np.abs(np.fft.rfft(frames, num_fft)) ** 2 / num_fft
    edges = 2595 * np.log10(1 + rate / 2 / 700) * np.linspace(0, 1, num_mels + 2)
    edges = np.floor((num_fft + 1) * 700 * (10 ** (edges / 2595) - 1) / rate)
    bank = np.zeros((num_mels, num_fft // 2 + 1))
    for row, left, centre, right in zip(
        bank, edges, edges[1:], edges[2:], strict=False
    ):
        for k in range(int(left), int(right)):
            is_left = k < centre
            row[k] = (
                (k - left) / (centre - left)
                if is_left
                else (right - k) / (right - centre)
            )
    bands, energy = power @ bank.T, power.sum(axis=1)
    eps = np.finfo(np.float64).eps
    cepstra = dct(np.log(np.where(bands == 0, eps, bands)), norm="ortho", axis=1)
    cepstra = cepstra[:, :13] * (1 + 11 * np.sin(np.pi * np.arange(13) / 22))
    cepstra[:, 0] = np.log(np.where(energy == 0, eps, energy))
    return cepstra


def tf_magnitudes(x, *, size, hop, num_fft):
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    starts = range(0, len(x) - size + 1, hop)
    frames = [x[start : start + size].astype(np.float64) * window for start in starts]
    return np.abs(np.fft.rfft(frames, num_fft))


def tf_mfcc(x, *, rate, size, hop, num_fft, num_mels, low, high, num_mfcc):
    spectrum = tf_magnitudes(x, size=size, hop=hop, num_fft=num_fft)
    bank = kaldi_bank(num_mels, num_fft, rate, low, high)
    levels = np.log(spectrum @ bank.T + 1e-6)
    return dct(levels, type=2, axis=1)[:, :num_mfcc] / np.sqrt(2 * num_mels)


def tf_op_mfcc(x, *, rate, size, hop, num_fft, num_mels, low, high, num_mfcc):
    """A bin adds to the bands left and right of it, as the op goes through them."""
    spectrum = tf_magnitudes(x, size=size, hop=hop, num_fft=num_fft)
    bands = np.zeros((len(spectrum), num_mels))
    step = (mel(high) - mel(low)) / (num_mels + 1)
    bin_hz = rate / num_fft
    for k in range(int(1.5 + low / bin_hz), int(high / bin_hz) + 1):
        position = (mel(k * bin_hz) - mel(low)) / step
        channel = int(np.ceil(position)) - 2
        share = channel + 2 - position
        if channel >= 0:
            bands[:, channel] += share * spectrum[:, k]
        if channel + 1 < num_mels:
            bands[:, channel + 1] += (1 - share) * spectrum[:, k]
    levels = np.log(np.maximum(bands, 1e-12))
    return dct(levels, type=2, axis=1)[:, :num_mfcc] / np.sqrt(2 * num_mels)


def micro(x, *, rate=16_000, size=480, hop=160, num_bands=40):
    """The micro front end with noise reduction and gain control, without rounding."""
    num_fft = 2 ** int(np.ceil(np.log2(size)))
    window = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(size) + 0.5) / size)
    bank = kaldi_bank(num_bands, num_fft, rate, 125.0, 7500.0)
    bank[:, : int(1.5 + 125.0 * num_fft / rate)] = 0.0
    share = np.where(np.arange(num_bands) % 2 == 0, 0.025, 0.06)
    mean, rows = np.zeros(num_bands), []
    for start in range(0, len(x) - size + 1, hop):
        frame = 32768.0 * x[start : start + size].astype(np.float64) * window
        band = np.sqrt(bank @ np.abs(np.fft.rfft(frame, num_fft)) ** 2)
        mean = mean + share * (band - mean)
        signal = np.maximum(band - mean, 0.05 * band) / (mean + 80.0) ** 0.95
        signal = np.where(signal < 2, signal**2 / 4, signal - 1)
        rows.append(64 * np.log(np.maximum(512 * signal, 1.0)))
    return np.array(rows)
