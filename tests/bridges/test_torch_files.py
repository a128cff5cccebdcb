"""Networks out of files of PyTorch."""

import sys
import zipfile

import bridged_networks as networks
import pytest
from bridged_networks import NUM_CLASSES, NUM_SAMPLES, assert_close

from uap_jax import bridges

torch = pytest.importorskip("torch")
modules = pytest.importorskip("bridged_modules")

SIZES = {"num_classes": NUM_CLASSES, "num_samples": NUM_SAMPLES}

# PyTorch deprecates TorchScript, of which there are many files.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning"
)


def export(module, path, *, any_number=True):
    dynamic = {"x": {0: torch.export.Dim("clips")}} if any_number else None
    example = (torch.full((2, NUM_SAMPLES), 0.5),)
    program = torch.export.export(module, example, dynamic_shapes=dynamic)
    torch.export.save(program, path)


def script(module, path):
    torch.jit.script(module).save(str(path))


def trace(module, path):
    torch.jit.trace(module, torch.full((2, NUM_SAMPLES), 0.5)).save(str(path))


WRITERS = {"script": script, "trace": trace, "export": export}
SUFFIXES = {"script": ".pt", "trace": ".pt", "export": ".pt2"}


@pytest.mark.parametrize("kind", WRITERS)
def test_agrees_with_the_module(kind, tmp_path):
    path = tmp_path / f"network{SUFFIXES[kind]}"
    WRITERS[kind](modules.Network().eval(), path)
    bridge = bridges.from_torch_file(path, sample_rate_hz=8000, **SIZES)
    assert bridge.sample_rate_hz == 8000
    networks.assert_agrees(bridge)


def cut(write):
    """Half a file."""

    def write_half(path):
        write(modules.Network().eval(), path)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])

    return write_half


def scramble(write):
    """A file with the program or its weights overwritten."""

    def write_scrambled(path):
        write(modules.Network().eval(), path)
        content = bytearray(path.read_bytes())
        # The directory at the end stays as it is.
        content[: len(content) * 2 // 3] = b"x" * (len(content) * 2 // 3)
        path.write_bytes(content)

    return write_scrambled


FOREIGN = {
    "text.pt": (lambda path: path.write_text("hello"), "something else, or half"),
    "empty.pt2": (lambda path: path.write_text(""), "something else, or half"),
    "half.pt": (cut(script), "something else, or half"),
    "half.pt2": (cut(export), "something else, or half"),
    "scrambled.pt": (scramble(script), "a damaged one"),
    "scrambled.pt2": (scramble(export), "a damaged one"),
    "weights.pt": (
        lambda path: torch.save(modules.Network().state_dict(), path),
        "one of torch.save; build the network, load its weights",
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_damaged_or_foreign(name, tmp_path, capfd):
    path = tmp_path / name
    write, message = FOREIGN[name]
    write(path)
    capfd.readouterr()
    with pytest.raises(ValueError, match=f"{name}: expected .*, got {message}") as info:
        bridges.from_torch_file(path, **SIZES)
    assert "\n" not in str(info.value)
    assert capfd.readouterr() == ("", "")


def test_another_archive(tmp_path):
    path = tmp_path / "clips.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/clip.wav", "")
    with pytest.raises(ValueError, match=r"clips\.zip: .*, got another archive"):
        bridges.from_torch_file(path, **SIZES)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"network\.pt"):
        bridges.from_torch_file(tmp_path / "network.pt", **SIZES)


@pytest.mark.parametrize("mode", ["train", "fixed"])
def test_exported_in_a_way_that_cannot_do(mode, tmp_path):
    path = tmp_path / "network.pt2"
    if mode == "train":
        export(modules.Network().train(), path)
        message = "logits that depend on the clip alone"
    else:
        export(modules.Network().eval(), path, any_number=False)
        message = "expected logits for 3 clips of 48 samples, got AssertionError"
    with pytest.raises(ValueError, match=f"network.pt2: .*{message}"):
        bridges.from_torch_file(path, **SIZES)


def test_script_in_training_mode(tmp_path):
    """TorchScript keeps both modes, so it is put into the right one."""
    path = tmp_path / "network.pt"
    script(modules.Network().train(), path)
    bridge = bridges.from_torch_file(path, **SIZES)
    x, _ = networks.clips()
    assert_close(bridge.logits({}, x), networks.jax_logits(networks.weights(), x))


def test_torch_missing(monkeypatch, tmp_path):
    # None is what the import system takes for a module that is not there.
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"pip install 'uap_jax\[bridges\]'"):
        bridges.from_torch_file(tmp_path / "network.pt", **SIZES)
