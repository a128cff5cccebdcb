"""The report: one file, the run's numbers, text that cannot break the page."""

import base64
import dataclasses
import html
import io
import math
import re
import wave

import matplotlib
import numpy as np
import pytest
from outline import Outline

from uap_jax.reporting import Arrival, Example, ReportData, plots, write_report
from uap_jax.reporting.html import headline, render_report

RATE_HZ = 8000


def sine(frequency_hz: float, amplitude: float, num_samples: int = 2000) -> np.ndarray:
    phase = 2 * np.pi * frequency_hz * np.arange(num_samples) / RATE_HZ
    return (amplitude * np.sin(phase)).astype(np.float32)


def make_result(**changes) -> dict:
    result = {
        "method": "penalty",
        "model": "spchcmd",
        "dataset": "spoken words",
        "scaling": "fixed",
        "target": "down",
        "seed": 7,
        "clean_accuracy": 0.908,
        "converged": True,
        "stop_reason": "goal reached",
        "num_passes": 3,
        "train": {"asr": 0.923, "num_clips": 1000},
        "test": {
            "asr": 0.941,
            "asr_ci95": [0.911, 0.962],
            "asr_clean_correct": 0.933,
            "accuracy_perturbed": 0.124,
            "snr_db": 31.72,
            "snr_ac_db": 7.13,
            "relative_loudness_db": -18.24,
            "asr_waveform": 0.902,
            "asr_shifted": 0.667,
            "waveform_gain": 0.253,
            "num_clips": 338,
            "num_silent": 2,
        },
        "control": {
            "asr": 0.052,
            "asr_ci95": [0.033, 0.081],
            "snr_db": 31.6,
            "accuracy_perturbed": 0.885,
            "same_spectrum": {
                "asr": 0.073,
                "asr_ci95": [0.05, 0.106],
                "snr_db": 31.5,
                "accuracy_perturbed": 0.872,
            },
        },
        "seconds": {"train_model": 212, "attack": 83.1, "evaluate": 9, "compile": 14.9},
        "versions": {"jax": "0.10.0"},
        "hardware": "two cores",
    }
    return result | changes


def make_data(**changes) -> ReportData:
    clean, sound = sine(440, 0.5), sine(1000, 0.02)
    example = Example(
        name="left/1.wav",
        true_class="left",
        clean_prediction="left",
        perturbed_prediction="down",
        clean=clean,
        perturbed=clean + sound,
        snr_db=31.0,
        snr_ac_db=28.0,
        relative_loudness_db=-28.0,
    )
    data = ReportData(
        config={"penalty": {"target_asr": 0.9, "rate": 0.0035}, "command": "run --x=1"},
        result=make_result(),
        passes=[
            {"pass": 1, "asr": 0.3, "spl_db": -40.0, "seconds": 1.5},
            {"pass": 2, "asr": 0.923, "spl_db": -33.0, "seconds": 1.25},
        ],
        perturbation=sound,
        sample_rate_hz=RATE_HZ,
        examples=[example],
        per_class=[
            {
                "class_name": "left",
                "num_clips": 34,
                "clean_accuracy": 0.91,
                "asr": 0.951,
                "accuracy_perturbed": 0.113,
                "control_asr": 0.047,
                "same_spectrum_asr": 0.062,
            }
        ],
    )
    return dataclasses.replace(data, **changes)


def make_channels() -> dict:
    rates = {"asr": 0.071, "asr_ci95": [0.04, 0.1], "accuracy_perturbed": 0.8}
    rows = [
        {
            "channel": channel,
            **rates,
            "asr": asr,
            "asr_waveform": asr,
            "snr_ac_db": 2.5,
            "num_clips": 200,
            "control": {**rates, "same_spectrum": rates | {"asr": 0.093}},
        }
        for channel, asr in (("with the clip", 0.86), ("any moment", 0.794))
    ]
    asr = 0.8 + 0.1 * np.sin(np.arange(100))
    moments = {
        "mean": float(np.mean(asr)),
        "worst_decile": float(np.quantile(asr, 0.1)),
        "num_clips": 64,
        "offsets_s": list(np.arange(100) / 100),
        "asr": list(asr),
    }
    return {"rows": rows, "moments": moments}


@pytest.fixture(scope="module")
def page() -> str:
    return render_report(make_data())


def players(page: str) -> list[np.ndarray]:
    clips = []
    for data in re.findall(r'src="data:audio/wav;base64,([^"]*)"', page):
        with wave.open(io.BytesIO(base64.b64decode(data))) as file:
            assert file.getparams()[:3] == (1, 2, RATE_HZ)
            clips.append(np.frombuffer(file.readframes(file.getnframes()), "<i2"))
    return clips


def test_a_sound_after_channels_is_drawn_and_heard(page):
    assert 'id="channels"' not in page
    heard, alone = sine(300, 0.3), sine(1000, 0.01)
    arrivals = [
        Arrival("begun 0.31 s before", "down", heard),
        Arrival("begun 0.2 s before, in room 3 of 50", "left", heard, alone),
    ]
    result = make_result(channels=make_channels(), channel="moment")
    made = render_report(make_data(result=result, arrivals=arrivals))
    section = made.partition('id="channels"')[2].partition("</section>")[0]
    assert 'Sound begun 0.31 s before: answer <strong>"down"' in html.unescape(section)
    levels = "worst decile 70 %; white noise 7 %, noise of the same spectrum 9 %"
    assert levels in section
    clips = players(section)
    assert len(clips) == 3
    np.testing.assert_allclose(clips[0] / 32768, heard, atol=1 / 32768)
    # Amplified to 1 dB below full scale.
    assert np.max(np.abs(clips[2])) / 32768 == pytest.approx(10 ** (-1 / 20), abs=1e-3)


def header(page: str) -> str:
    return page.partition("<header>")[2].partition("</header>")[0]


def test_page_is_whole_and_asks_for_no_other_file(page):
    outline = Outline(page)
    assert outline.open == []
    assert not outline.tags & {"script", "link", "iframe", "object", "base"}
    sources = [
        value
        for name, value in outline.attributes
        if name in ("src", "href", "xlink:href", "action", "poster")
    ]
    assert len(sources) > 10
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert not re.search(r"@import|url\((?!%23)", page)
    ids = [value for name, value in outline.attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_page_has_the_numbers(page):
    text = Outline(page).text
    assert (
        'One sound, 7.1 dB below the clips, makes spchcmd say "down" for 94.1 % of 338 '
        "unseen clips (95 % interval 91.1 to 96.2 %); white noise of the same level: "
        "5.2 %, noise of the same spectrum: 7.3 %."
    ) in text
    assert (
        "The attack reached its goal of 90.0 %: 92.3 % of 1,000 attack clips after 3 "
        "passes. Reason for stopping: goal reached."
    ) in text
    expected = "93.3 % 90.2 % 66.7 % 0.253 90.8 % 12.4 % 88.5 % 7.1 dB 31.7 dB 31.6 dB"
    expected += " 87.2 % 31.5 dB 10.6 % 6.2 %"
    expected += " -18.2 dB 95.1 % 4.7 % 91.0 % 11.3 % 212 83.1 14.9 0.0035"
    for number in re.findall(r"\S+(?: %| dB)?", expected):
        assert number in text
    for words in ("run --x=1", "two cores", "0.10.0", "spoken words", "left/1.wav"):
        assert words in text
    assert "n/a" not in text
    assert 'class="warning"' not in page and "<strong>" not in header(page)


def test_figures_and_players_have_a_name(page):
    figures = re.findall(r"<(img|audio)\b([^>]*)", page)
    assert [tag for tag, _ in figures].count("img") == 4 + 3
    assert [tag for tag, _ in figures].count("audio") == 2 + 3
    assert all(re.search(r'(aria-label|alt)="[^"]+"', rest) for _, rest in figures)


def test_text_is_escaped():
    name = "<b>\"'&"
    example = dataclasses.replace(
        make_data().examples[0],
        name=name,
        true_class=name,
        clean_prediction=name,
        perturbed_prediction=name,
    )
    data = make_data(
        result=make_result(target=name, model=name, stop_reason=name, hardware=name),
        config={"command": name, name: name},
        passes=[{"pass": 1, name: 1.0}],
        examples=[example],
        per_class=[{"class_name": name}],
    )
    page = render_report(data)
    assert "<b>" not in page
    assert Outline(page).text.count(name) >= 10


def test_names_that_are_not_utf8(tmp_path):
    example = dataclasses.replace(make_data().examples[0], name="left/\udcff.wav")
    data = make_data(config={"data_dir": "caf\udce9"}, examples=[example])
    write_report(tmp_path / "report.html", data)
    said = Outline((tmp_path / "report.html").read_text(encoding="utf-8")).text
    assert "left/?.wav" in said and "caf?" in said


def test_players_hold_the_waveforms(page):
    data = make_data()
    loud, true, clean, added, perturbed = players(page)
    peak = 10 ** (-1 / 20)
    for played, expected in (
        (true, data.perturbation),
        (clean, data.examples[0].clean),
        (perturbed, data.examples[0].perturbed),
        (loud, data.perturbation * (peak / np.max(data.perturbation))),
        (added, data.perturbation * (peak / np.max(data.perturbation))),
    ):
        np.testing.assert_allclose(played / 32768, expected, atol=2e-5)
    assert "Amplified by 33.0 dB" in page  # 20 log10(1 / 0.02) - 1


@pytest.mark.parametrize("missing", [None, math.nan])
def test_missing_numbers_read_not_available(missing):
    result = make_result()
    for name in ("train", "test", "control", "seconds"):
        result[name] = dict.fromkeys(result[name], missing)
        result[name] |= {"asr_ci95": [missing, missing]}
    result["control"]["same_spectrum"] = dict.fromkeys(("asr", "snr_db"), missing)
    result |= {"clean_accuracy": missing, "num_passes": missing, "target": None}
    data = make_data(
        result=result,
        passes=[{"pass": 1, "asr": missing, "spl_db": missing}],
        examples=[],
        per_class=[{"class_name": "left", "asr": missing}],
    )
    text = Outline(render_report(data)).text
    assert "No success rate on unseen clips was measured." in text
    assert text.count("n/a") > 20
    assert not re.search(r"\b(nan|inf|None)\b", text)
    assert "Progress of the attack" not in text


def test_an_empty_run_with_silence():
    silence = np.zeros(2000, np.float32)
    examples = [
        dataclasses.replace(make_data().examples[0], clean=clip, perturbed=clip)
        for clip in (silence, silence + np.float32(0.25))
    ]
    page = render_report(
        ReportData({}, {}, [], silence, RATE_HZ, examples=examples, per_class=[])
    )
    outline = Outline(page)
    assert outline.open == []
    for heading in ("Progress of the attack", "Results by class", "Command"):
        assert heading not in outline.text
    assert "s of silence" in outline.text
    levels = [int(clip[0]) for clip in players(page)]
    assert levels == [0, 0, 0, 0, 0, 8192, 0, 8192]
    assert all(np.ptp(clip) == 0 for clip in players(page))


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        (
            {"converged": False, "num_passes": 1},
            "The attack did not reach its goal of 90.0 %: 92.3 % of 1,000 attack clips "
            "after 1 pass.",
        ),
        ({"converged": None}, "is not recorded"),
    ],
)
def test_page_warns(changes, warning):
    page = render_report(
        make_data(result=make_result(**changes), examples=[], passes=[])
    )
    (shown,) = re.findall(r'<p class="warning">(.*?)</p>', page)
    assert warning in shown


@pytest.mark.parametrize(
    ("control", "said"),
    [
        ({"asr": 0.95}, "the success is the level's, not the waveform's."),
        (
            {"same_spectrum": {"asr": 0.9, "asr_ci95": [0.86, 0.93]}},
            "the success is the colour's, not the waveform's.",
        ),
    ],
)
def test_headline_says_what_a_control_explains(control, said):
    result = make_result(target=None)
    result["control"] |= control
    page = render_report(make_data(result=result, examples=[], passes=[]))
    (headline,) = re.findall(r'<p class="headline">(.*?)</p>', page)
    assert html.unescape(headline).endswith(f"{said}</strong>")


def test_result_without_the_second_control():
    result = make_result()
    del result["control"]["same_spectrum"]
    text = Outline(render_report(make_data(result=result, examples=[], passes=[]))).text
    assert "level: 5.2 %, noise of the same spectrum: n/a" in text


def test_clips_without_a_class_are_counted_where_there_are_any(page):
    result = make_result()
    result["control"]["num_non_finite"] = 7
    result["control"]["same_spectrum"]["num_non_finite"] = 9
    counted = render_report(make_data(result=result, examples=[], passes=[]))
    assert "white noise: 7; with noise of the same spectrum: 9." in counted
    assert "not finite" in counted and "not finite" not in page


def test_headline_of_an_untargeted_run_louder_than_the_clips():
    test = {"asr": 0.86, "num_clips": 338, "snr_ac_db": -2.7}
    assert headline(make_result(target=None, test=test)).startswith(
        "One sound, 2.7 dB above the clips, changes the answer of spchcmd for 86.0 %"
    )


def test_curves_are_drawn_for_the_quantities_present():
    asr, updates = plots.pass_curves(
        [
            {"pass": 1, "asr": 0.2, "num_updates": 40, "phase": "x", "norm": math.nan},
            {"pass": 2, "asr": None, "num_updates": 20, "phase": "y", "norm": math.inf},
        ],
        target_asr=0.85,
    )
    assert (asr["name"], asr["main"]) == ("asr", True)
    assert (updates["name"], updates["main"]) == ("num_updates", False)
    assert "goal 85" in asr["drawing"].svg
    assert "goal" not in updates["drawing"].svg
    assert "from 40 to 20" in updates["drawing"].alt


def test_envelope_keeps_every_peak():
    for index in (0, 1, 4999, 7777, 9999):
        waveform = np.zeros(10_000)
        waveform[index] = -1.0
        times_s, low, high = plots._envelope(waveform, 1000)
        assert len(times_s) == len(low) == len(high) <= 300
        assert low.min() == -1.0
        assert abs(times_s[np.argmin(low)] - index / 1000) <= 10 / 300
        assert high.max() == 0.0


def test_fewer_columns_keep_the_power():
    spectrogram_db = np.full((2, 900), -20.0)
    spectrogram_db[1, ::3] = 0.0
    few = plots._fewer_columns(spectrogram_db)
    assert few.shape == (2, 300)
    np.testing.assert_allclose(few[0], -20.0, atol=1e-9)
    np.testing.assert_allclose(few[1], 10 * np.log10((1 + 0.02) / 3), atol=1e-9)


def test_same_data_gives_the_same_bytes(page, tmp_path):
    with matplotlib.rc_context({"font.size": 20, "axes.grid": True}):
        write_report(tmp_path / "report.html", make_data())
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == page


def test_three_examples_of_five_seconds_stay_small():
    noise = np.random.default_rng(0).normal(0, 0.1, 80_000).astype(np.float32)
    example = dataclasses.replace(
        make_data().examples[0], clean=noise, perturbed=noise[::-1]
    )
    data = make_data(perturbation=noise, sample_rate_hz=16_000, passes=[])
    base, page = (
        len(render_report(dataclasses.replace(data, examples=examples)))
        for examples in ([], [example])
    )
    assert base + 3 * (page - base) < 2_900_000  # leaves 100 kB for the curves


def test_learned_bank_is_drawn_where_there_is_one(page):
    assert "Learned filters" not in page
    edges = np.asarray([[50.0, 120.0], [400.0, 900.0], [3000.0, 8200.0]])
    drawing = plots.draw_bank(edges, edges * 1.1)
    assert drawing.alt == (
        "Pass bands of 3 learned filters, lower edges from 50 to 3000 Hz, median "
        "width 500 Hz"
    )
    data = make_data(
        bank_edges_hz=edges, initial_bank_edges_hz=edges, examples=[], passes=[]
    )
    assert "Learned filters" in render_report(data)
