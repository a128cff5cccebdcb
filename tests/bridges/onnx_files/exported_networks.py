"""Networks of PyTorch that are exported to ONNX files."""

import warnings

import torch
from torch import nn

NUM_SAMPLES = 1600
NUM_CLASSES = 5


class WaveformCnn(nn.Module):
    """Convolutions of a waveform: strides, dilation, groups, overlapping pools."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(1, 12, 40, stride=4),
            nn.BatchNorm1d(12),
            nn.ReLU(),
            nn.MaxPool1d(4),
            nn.Conv1d(12, 16, 3, padding=1),
            nn.BatchNorm1d(16),
            nn.LeakyReLU(0.1),
            nn.MaxPool1d(3, 2, padding=1),
            nn.Conv1d(16, 16, 3, padding=2, dilation=2),
            nn.PReLU(16),
            nn.Conv1d(16, 32, 3, stride=2, groups=4),
            nn.ELU(),
            nn.Conv1d(32, 32, 5, padding=2, groups=32),
            nn.AvgPool1d(3, 2, padding=1, ceil_mode=True),
            nn.Hardswish(),
        )
        self.out = nn.Linear(32, NUM_CLASSES)

    def forward(self, x):
        return self.out(self.layers(x[:, None]).mean(2))


class DsCnn(nn.Module):
    """Depthwise and pointwise convolutions of a spectrogram."""

    def __init__(self):
        super().__init__()
        self.register_buffer("window", torch.hann_window(256))

        def block():
            return [
                nn.Conv2d(24, 24, 3, padding=1, groups=24),
                nn.BatchNorm2d(24),
                nn.ReLU6(),
                nn.Conv2d(24, 24, 1),
                nn.BatchNorm2d(24),
                nn.ReLU6(),
            ]

        self.layers = nn.Sequential(
            nn.Conv2d(1, 24, (10, 4), stride=(2, 1), padding=(4, 1)),
            nn.ReLU(),
            *block(),
            nn.Conv2d(24, 24, 3, stride=2),
            nn.GELU(),
            *block(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(24, NUM_CLASSES),
        )

    def forward(self, x):
        # The exporter does not know complex numbers.
        parts = torch.stft(
            x, 256, 64, window=self.window, center=False, return_complex=False
        )
        power = (parts * parts).sum(-1)
        return self.layers(torch.log(power + 1e-3)[:, None])


class Recurrent(nn.Module):
    """A bidirectional LSTM, then a GRU, over frames of the waveform."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(40, 24, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(48, 20, batch_first=True)
        self.out = nn.Linear(20, NUM_CLASSES)

    def forward(self, x):
        hidden, _ = self.lstm(4.0 * x.reshape(x.shape[0], -1, 40))
        _, last = self.gru(hidden)
        return self.out(last[0])


class Transformer(nn.Module):
    """An encoder block with attention over frames, from PyTorch's parts."""

    def __init__(self, num_samples=NUM_SAMPLES, width=32, heads=4):
        super().__init__()
        self.embed = nn.Linear(80, width)
        self.position = nn.Parameter(0.1 * torch.randn(num_samples // 80, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.qkv = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.inner = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.out = nn.Linear(width, NUM_CLASSES)
        self.heads = heads

    def forward(self, x):
        h = self.embed(x.reshape(x.shape[0], -1, 80)) + self.position
        batch, steps, width = h.shape
        parts = self.qkv(self.norms[0](h)).reshape(batch, steps, 3, self.heads, -1)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        scores = torch.softmax(q @ k.transpose(2, 3) * k.shape[-1] ** -0.5, -1)
        h = h + self.mix((scores @ v).transpose(1, 2).reshape(batch, steps, width))
        return self.out((h + self.inner(self.norms[1](h))).mean(1))


NETWORKS = {
    "waveform_cnn": WaveformCnn,
    "ds_cnn": DsCnn,
    "recurrent": Recurrent,
    "transformer": Transformer,
}


def make(name, *, num_samples=NUM_SAMPLES):
    """Returns a network with random weights and statistics, in evaluation mode."""
    torch.manual_seed(sum(map(ord, name)))
    settings = {"num_samples": num_samples} if name == "transformer" else {}
    module = NETWORKS[name](**settings)
    for layer in module.modules():
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear):
            # So that logits differ between clips.
            layer.weight.data *= 2.0
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.2)
            layer.running_var.uniform_(0.3, 1.0)
    return module.eval()


def export(module, path, *, num_samples=NUM_SAMPLES, opset=17):
    """Writes an ONNX file that takes any number of clips."""
    with warnings.catch_warnings():
        # The exporter that needs no onnxscript is deprecated.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (torch.rand(2, num_samples),),
            path,
            dynamo=False,
            opset_version=opset,
            input_names=["clips"],
            output_names=["logits"],
            dynamic_axes={"clips": {0: "B"}, "logits": {0: "B"}},
        )
