"""Penalty and greedy attacks give what they gave when their results were recorded."""

import json

import numpy as np
import pytest
import regenerate_golden


@pytest.mark.parametrize("name", regenerate_golden.CASES)
def test_golden(name):
    golden = json.loads((regenerate_golden.FOLDER / f"{name}.json").read_text())
    result = regenerate_golden.run_case(name)
    assert result["stop_reason"] == golden["stop_reason"]
    assert result["num_passes"] == golden["num_passes"]
    np.testing.assert_allclose(result["value"], golden["value"], rtol=0, atol=1e-3)
    assert result["history"].keys() == golden["history"].keys()
    for field, numbers in golden["history"].items():
        np.testing.assert_allclose(
            result["history"][field], numbers, rtol=1e-3, atol=1e-3, err_msg=field
        )
