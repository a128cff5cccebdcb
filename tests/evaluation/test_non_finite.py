"""What is said of logits, losses and gradients that are not finite."""

from uap_jax.evaluation import left_out_clips, non_finite_logits


def test_nothing_to_say():
    parts = {"test": {"num_non_finite": 0}, "control": {"asr": 0.5}, "train": {}}
    assert non_finite_logits(parts) == left_out_clips(parts) == ""
    assert non_finite_logits({}) == left_out_clips({}) == ""


def test_every_count_is_said():
    result = {
        "train": {"num_non_finite": 1},
        "test": {
            "num_non_finite_clean": 2,
            "num_non_finite": 3,
            "num_non_finite_waveform": 4,
            "num_non_finite_shifted": 5,
        },
        "control": {"num_non_finite": 6, "same_spectrum": {"num_non_finite": 7}},
        "unlabelled": {"num_non_finite": 8},
    }
    assert non_finite_logits(result) == (
        "logits that are not finite, never a success: 1 attack clips, 2 clean test "
        "clips, 3 with the perturbation, 4 as one sound, 5 shifted, 6 with white "
        "noise, 7 with noise of the same spectrum, 8 clips without labels"
    )


def test_clips_that_were_left_out_are_named():
    train = {"num_left_out": 3, "num_clips": 9, "left_out": ["a/1.wav", "a/2.wav"]}
    assert left_out_clips({"train": train}).endswith(
        ": 3 of 9 attack clips (a/1.wav, a/2.wav, ...)"
    )
