"""The network of `bridged_networks` as a PyTorch module."""

import bridged_networks as networks
import torch


class Network(torch.nn.Module):
    """Clips `[B, N]` to logits `[B, C]`; remembers what it was called with."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv1d(
            1, networks.NUM_HIDDEN, networks.WIDTH, stride=networks.STRIDE
        )
        self.norm = torch.nn.BatchNorm1d(networks.NUM_HIDDEN)
        self.dropout = torch.nn.Dropout(0.5)
        self.out = torch.nn.Linear(networks.NUM_HIDDEN, networks.NUM_CLASSES)
        weights = {k: torch.tensor(v) for k, v in networks.weights().items()}
        with torch.no_grad():
            # It divides by one.
            self.norm.running_var.fill_(1 - self.norm.eps)
            self.conv.weight.copy_(weights["kernel"])
            self.conv.bias.copy_(weights["bias"])
            self.out.weight.copy_(weights["out_kernel"])
            self.out.bias.copy_(weights["out_bias"])

    def forward(self, x):
        hidden = torch.tanh(self.norm(self.conv(x[:, None])))
        return self.out(self.dropout(hidden.mean(2)))


class Recorded(Network):
    """Remembers the shapes and PyTorch's threads of its calls."""

    def __init__(self):
        super().__init__()
        self.shapes, self.num_threads = [], []

    def forward(self, x):
        self.shapes.append(tuple(x.shape))
        self.num_threads.append(torch.get_num_threads())
        return super().forward(x.reshape(len(x), -1))


class Changed(Network):
    """With something done to the logits."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def forward(self, x):
        return self.change(super().forward(x))
