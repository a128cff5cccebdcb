"""A small keyword classifier in PyTorch: network, training, files.

Log mel spectrum and four convolutions over time. It takes waveforms, so what an attack
changes is the sound; the spectrum is a strided convolution with fixed filters, which
has a gradient and an ONNX form.
"""

import itertools
import warnings
from pathlib import Path

import librosa
import numpy as np
import torch
from absl import logging
from torch import Tensor, nn
from torch.nn import functional

from uap_jax.data.dataset import Dataset, to_waveform

SAMPLE_RATE_HZ = 16_000
NUM_SAMPLES = 16_000
FRAME = 400
HOP = 160
NUM_BINS = FRAME // 2 + 1
NUM_BANDS = 40
# Power in a band that counts as silence; without it the logarithm would listen to what
# rounding leaves of a quiet clip.
FLOOR = 1e-5
FEATURES = (64, 96, 128, 128)
WIDTH = 5

# Opset 17 is the last whose operations onnx2torch knows.
OPSET = 17
FILES = {"weights": "keyword.pt", "program": "keyword.pt2", "onnx": "keyword.onnx"}


class KeywordNetwork(nn.Module):
    """`[B, N]` waveforms in [-1, 1] to `[B, C]` logits."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("fourier", torch.from_numpy(fourier_filters())[:, None])
        self.register_buffer("mel", torch.from_numpy(mel_filters()))
        self.band_norm = nn.BatchNorm1d(NUM_BANDS)
        sizes = itertools.pairwise((NUM_BANDS, *FEATURES))
        self.convs = nn.ModuleList(nn.Conv1d(a, b, WIDTH, bias=False) for a, b in sizes)
        self.norms = nn.ModuleList(nn.BatchNorm1d(features) for features in FEATURES)
        self.dropout = nn.Dropout(0.3)
        self.out = nn.Linear(FEATURES[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        spectrum = functional.conv1d(x[:, None], self.fourier, stride=HOP)
        power = torch.matmul(self.mel, spectrum.square())
        x = self.band_norm(torch.log(power + FLOOR))
        for index, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            if index:
                x = functional.avg_pool1d(x, 2)
            x = functional.silu(norm(conv(x)))
        return self.out(self.dropout(x.mean(2)))


def fourier_filters() -> np.ndarray:
    """Cosines, then sines, under a Hann window, `[2 NUM_BINS, FRAME]`."""
    time = np.arange(FRAME) / FRAME
    window = 0.5 - 0.5 * np.cos(2 * np.pi * time)
    phase = 2 * np.pi * np.arange(NUM_BINS)[:, None] * time
    filters = np.concatenate([np.cos(phase), np.sin(phase)]) * window
    return filters.astype(np.float32)


def mel_filters() -> np.ndarray:
    """Weights of squared cosines and sines in each band, `[NUM_BANDS, 2 NUM_BINS]`."""
    filters = librosa.filters.mel(sr=SAMPLE_RATE_HZ, n_fft=FRAME, n_mels=NUM_BANDS)
    return np.tile(filters, (1, 2)).astype(np.float32)


def train(
    dataset: Dataset,
    indices: np.ndarray,
    *,
    num_epochs: int,
    seed: int,
    batch_size: int = 64,
    learning_rate: float = 3e-3,
) -> KeywordNetwork:
    """Trains a network on some clips of a corpus; returns it in evaluation mode.

    Clips are shifted in time, scaled and mixed with background noise.
    """
    torch.manual_seed(seed)
    waveforms = torch.from_numpy(to_waveform(dataset.clips[indices]))
    labels = torch.from_numpy(np.asarray(dataset.labels[indices], np.int64))
    noise = None
    if dataset.noise is not None:
        noise = torch.from_numpy(to_waveform(np.asarray(dataset.noise)))
    network = KeywordNetwork(len(dataset.class_names))
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
    num_steps = num_epochs * -(-len(labels) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=num_steps
    )
    for epoch in range(num_epochs):
        losses = []
        for batch in torch.randperm(len(labels)).split(batch_size):
            optimizer.zero_grad()
            logits = network(augment(waveforms[batch], noise))
            loss = functional.cross_entropy(logits, labels[batch])
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        logging.info("epoch %d: loss %.3f", epoch + 1, np.mean(losses))
    return network.eval().requires_grad_(False)


def augment(waveforms: Tensor, noise: Tensor | None) -> Tensor:
    """Shifts by up to 0.1 s, scales by up to 6 dB, adds noise at -60 to -20 dB."""
    num_clips, num_samples = waveforms.shape
    limit = SAMPLE_RATE_HZ // 10
    starts = torch.randint(0, 2 * limit + 1, (num_clips, 1))
    padded = functional.pad(waveforms, (limit, limit))
    shifted = padded.gather(1, starts + torch.arange(num_samples))
    gain_db = 12 * torch.rand(num_clips, 1) - 6
    added = torch.randn(num_clips, num_samples)
    if noise is not None:
        background = noise[torch.randint(0, len(noise), (num_clips,))]
        rms = background.square().mean(1, keepdim=True).sqrt()
        is_recorded = torch.rand(num_clips, 1) < 0.7
        added = torch.where(is_recorded, background / (rms + 1e-4), added)
    level_db = 40 * torch.rand(num_clips, 1) - 60
    return shifted * 10 ** (gain_db / 20) + added * 10 ** (level_db / 20)


def logits_of(network: nn.Module, waveforms: np.ndarray) -> np.ndarray:
    """`[M, N]` to `[M, C]`, block by block."""
    with torch.no_grad():
        blocks = torch.from_numpy(waveforms).split(100)
        return torch.cat([network(block) for block in blocks]).numpy()


def load(path: Path) -> KeywordNetwork:
    """Returns the network of a file of weights, in evaluation mode."""
    state = torch.load(path, weights_only=True)
    network = KeywordNetwork(len(state["out.bias"]))
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)


def save(network: KeywordNetwork, folder: Path) -> None:
    """Writes `FILES`: weights, exported program and, where onnx is there, ONNX."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), folder / FILES["weights"])
    example = (torch.zeros(2, NUM_SAMPLES),)
    program = torch.export.export(
        network, example, dynamic_shapes={"x": {0: torch.export.Dim("clips")}}
    )
    torch.export.save(program, folder / FILES["program"])
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        logging.warning("no ONNX file: %s", error)
        return
    with warnings.catch_warnings():
        # The newer exporter writes opset 18 and above.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            network,
            example,
            str(folder / FILES["onnx"]),
            dynamo=False,
            opset_version=OPSET,
            input_names=["x"],
            output_names=["logits"],
            dynamic_axes={"x": {0: "clips"}, "logits": {0: "clips"}},
        )
