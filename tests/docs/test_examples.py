"""The Python of the README and of the page on attacks runs, and does what it says."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run_blocks(page: str) -> dict:
    """Runs a page's Python blocks one after the other, as a reader would."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    names: dict = {"__name__": page}
    exec(compile("\n".join(blocks), page, "exec"), names)
    return names


def test_readme(capsys):
    names = run_blocks("README.md")
    result = names["result"]
    assert bool(result.converged)
    assert names["x_adversarial"].shape == names["x"].shape
    assert f"after {int(result.num_passes)} passes" in capsys.readouterr().out


@pytest.mark.slow
def test_channels_page(capsys):
    assert run_blocks("docs/channels.md")["result"].converged
    assert "1.00 at any moment" in capsys.readouterr().out


@pytest.fixture(scope="module")
def attacks_page() -> dict:
    return run_blocks("docs/attacks.md")


@pytest.mark.slow
def test_attacks_page(attacks_page):
    assert bool(attacks_page["result"].converged)
    assert (attacks_page["quietest"].front.train_asr >= 0.5).any()
    assert bool(attacks_page["smallest"].success.all())
    assert all(bool(result.converged) for result in attacks_page["results"])
    assert bool(attacks_page["on_devices"].converged)


@pytest.mark.slow
def test_a_custom_method(attacks_page):
    signs, config = attacks_page["signs"], attacks_page["SignConfig"]()
    assert bool(signs.converged)
    assert abs(signs.perturbation.value).max() <= config.radius


def test_the_custom_method_is_the_one_that_the_loop_is_tested_with():
    _, body = (ROOT / "tests/attacks/sign_steps.py").read_text().split('"""\n\n', 1)
    assert body in (ROOT / "docs/attacks.md").read_text()
