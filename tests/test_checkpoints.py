"""What Orbax stores comes back as it was; a broken folder is named."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from uap_jax import attacks, checkpoints


def state(step):
    value = jnp.arange(4, dtype=jnp.float32) * step
    return {
        "value": value,
        "opt_state": optax.adam(1e-3).init(value),
        "key": jax.random.key(step),
        "count": jnp.asarray(step, jnp.int32),
    }


def test_newest_of_the_kept_steps_comes_back(tmp_path):
    folder = tmp_path / "steps"
    with checkpoints.open_checkpoints(folder) as saved:
        assert saved.latest_step() is None
        for step in (1, 2, 5):
            saved.save(step, state(step))
        saved.save(5, state(6))
    with checkpoints.open_checkpoints(folder) as saved:
        assert saved.latest_step() == 5
        found = saved.restore(state(0))
    expected = state(5)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    assert jnp.all(found["key"] == expected["key"])
    for name in ("value", "count"):
        np.testing.assert_array_equal(found[name], expected[name])
    assert sorted(entry.name for entry in folder.iterdir()) == ["2", "5"]


def test_half_written_step_is_not_the_newest(tmp_path):
    with checkpoints.open_checkpoints(tmp_path) as saved:
        saved.save(1, state(1))
    (tmp_path / "2.orbax-checkpoint-tmp").mkdir()
    with checkpoints.open_checkpoints(tmp_path) as saved:
        assert saved.latest_step() == 1
        saved.save(2, state(2))
        assert saved.latest_step() == 2


def test_damage_is_named(tmp_path):
    with checkpoints.open_checkpoints(tmp_path) as saved:
        saved.save(1, state(1))
    for path in (tmp_path / "1").rglob("*"):
        if path.is_file() and path.parent.name != "1":
            path.write_bytes(b"")
    with checkpoints.open_checkpoints(tmp_path) as saved:
        with pytest.raises(OSError, match="cannot be read") as caught:
            saved.restore(state(0))
        assert caught.value.filename == str(tmp_path)


def test_perturbation_with_its_settings(tmp_path):
    perturbation = attacks.Perturbation(
        jnp.arange(5, dtype=jnp.float32),
        space="tanh",
        scaling="peak",
        sample_rate_hz=16_000,
    )
    folder = tmp_path / "perturbation"
    for _ in range(2):
        checkpoints.save_perturbation(folder, perturbation)
    found = checkpoints.load_perturbation(folder)
    np.testing.assert_array_equal(found.value, perturbation.value)
    for name in ("space", "scaling", "sample_rate_hz", "epsilon"):
        assert getattr(found, name) == getattr(perturbation, name)
    with pytest.raises(ValueError, match="stored perturbation"):
        checkpoints.load_perturbation(tmp_path / "none")
