"""What tests of sweeps share."""

import pytest


@pytest.fixture
def write_manifest(tmp_path):
    """Writes a manifest, under another name if it is given one."""

    def write(text, name="quick"):
        path = tmp_path / f"{name}.toml"
        path.write_text(text.replace('name = "quick"', f'name = "{name}"'))
        return path

    return write
