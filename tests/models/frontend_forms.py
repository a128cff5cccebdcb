"""Front ends in NumPy and float64, one clip at a time, as their formulas read."""

import numpy as np

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
