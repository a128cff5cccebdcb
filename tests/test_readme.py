"""The README's example does what it says."""

import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def test_example_reaches_its_goal(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    names: dict = {}
    exec(compile(example, str(README), "exec"), names)
    result = names["result"]
    assert bool(result.converged)
    assert float(result.train_asr) >= 0.9 - 1e-6
    assert names["x_adversarial"].shape == names["x"].shape
    assert f"after {int(result.num_passes)} passes" in capsys.readouterr().out
