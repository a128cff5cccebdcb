"""The page of `accelerator.py`: aims, parts, tables."""

import statistics
from typing import Any

import harness
from greedy import snr_text

# Of the attack on SpchCMD, in the README's command.
MOST_ATTACK_S = 10.0
MOST_TIMES_ONE = 4.0

REACHED, MISSED, UNKNOWN = "reached", "not reached", "not measured"


def aims(results: harness.Results) -> list[harness.Results]:
    """Returns the aims on a GPU, what was measured, and whether they are reached."""
    parts = {int(number): part["results"] for number, part in results["parts"].items()}
    listed = [_aim_networks(parts.get(2, {})), _aim_targets(parts.get(3, {}))]
    listed.append(_aim_attack(parts.get(1, {})))
    if results["small"]:
        for aim in listed:
            aim["verdict"] = "reduced sizes say nothing"
    return listed


def _aim_networks(part: harness.Results) -> harness.Results:
    aim = "at least PyTorch's speed on each of the six networks"
    networks = next(iter(part.get("models", {}).values()), {})
    ratios = {
        f"{name}, {what}": statistics.median(found[what]["ratios"])
        for name, found in networks.items()
        for what in ("gradient", "step")
        if "ratios" in found[what]
    }
    slower = [f"{name} {ratio:.2f}" for name, ratio in ratios.items() if ratio < 1]
    verdict = MISSED if slower else REACHED if len(ratios) == 12 else UNKNOWN
    measured = f"{len(ratios)} of 12 measured"
    if slower:
        measured += f"; slower: {', '.join(slower)}"
    return {"aim": aim, "measured": measured, "verdict": verdict}


def _aim_targets(part: harness.Results) -> harness.Results:
    aim = f"32 targets in at most {MOST_TIMES_ONE:g} times the time of one (penalty)"
    times = times_one(part.get("penalty", {}).get("widths", {}))
    if "32" not in times:
        return {"aim": aim, "measured": "", "verdict": UNKNOWN}
    verdict = REACHED if times["32"] <= MOST_TIMES_ONE else MISSED
    return {"aim": aim, "measured": f"{times['32']:.2f} times", "verdict": verdict}


def _aim_attack(part: harness.Results) -> harness.Results:
    aim = f"the attack on SpchCMD in at most {MOST_ATTACK_S:g} s"
    if "seconds" not in part:
        return {"aim": aim, "measured": "", "verdict": UNKNOWN}
    seconds = part["seconds"]["attack"]
    verdict = REACHED if seconds <= MOST_ATTACK_S else MISSED
    return {"aim": aim, "measured": f"{seconds:.1f} s", "verdict": verdict}


def times_one(widths: harness.Results) -> dict[str, float]:
    """Returns the time of each number of targets over that of one."""
    medians = {str(w): statistics.median(f["seconds"]) for w, f in widths.items()}
    return {w: s / medians["1"] for w, s in medians.items()} if "1" in medians else {}


def gaps(record: harness.Results) -> list[str]:
    """Returns what a part left out, each with its reason, wherever it says so."""

    def collect(tree: Any, where: str) -> list[str]:
        if not isinstance(tree, dict):
            return []
        lines = []
        for name, branch in tree.items():
            if name == "left_out" and isinstance(branch, dict):
                lines += [f"{where}{what}: {why}" for what, why in branch.items()]
            else:
                lines += collect(branch, f"{where}{name}, ")
        return lines

    return collect(record["results"], "")


def outcome(record: harness.Results) -> str:
    """Returns one line on how a part went."""
    left_out = gaps(record)
    parts = [record["reason"] or "done", f"{record['seconds']:.0f} s"]
    if left_out:
        parts.append(f"{len(left_out)} left out ({record['log']})")
    return ", ".join(parts)


def as_markdown(results: harness.Results) -> str:
    parts = {int(number): part for number, part in results["parts"].items()}
    machine = results.get("machine", {"device": "unknown device"})
    lines = [f"# Accelerator benchmark: {machine['device']}", ""]
    if results["small"]:
        lines += ["Reduced sizes (`--small`): a rehearsal, not a measurement.", ""]
    lines += ["| aim on a GPU | measured | |", "| --- | --- | --- |"]
    lines += [
        f"| {aim['aim']} | {aim['measured']} | {aim['verdict']} |"
        for aim in results["aims"]
    ]
    lines += ["", "| part | |", "| --- | --- |"]
    lines += [
        f"| {n}. {part['title']} | {outcome(part)} |" for n, part in parts.items()
    ]
    for number, part in parts.items():
        lines += ["", f"## {number}. {part['title']}", ""]
        if part["results"]:
            lines += _SECTIONS[number](part["results"])
        notes = [f"- Left out: {gap}" for gap in gaps(part)]
        if part["reason"]:
            notes.insert(0, f"- {part['reason']} (log: {part['log']})")
        lines += ["", *notes] if notes else []
    versions = ", ".join(f"{n} {v}" for n, v in results.get("versions", {}).items())
    lines += [
        "",
        "## Machine",
        "",
        f"- `{results['command']}`, seed {results['seed']}, {results['date']}; at most "
        f"{results['limit_s']} s.",
        f"- {machine['device']}; {machine.get('cpu')}, {machine.get('num_cores')} "
        f"cores; load average before: {machine.get('load_average_before', 0):.2f}.",
        f"- {versions}.",
    ]
    return "\n".join(lines) + "\n"


def _readme(part: harness.Results) -> list[str]:
    seconds = ", ".join(f"{name} {s:.1f} s" for name, s in part["seconds"].items())
    test, noise = part["test"], part["control"]
    return [
        f"`{part['command']}` took {part['wall_s']:.1f} s with empty caches: "
        f"{seconds}.",
        f"Clean accuracy {part['clean_accuracy']:.3f}, {part['num_passes']} passes, "
        f"test ASR {test['asr']:.3f}, noise {noise['asr']:.3f}.",
    ]


def _networks(part: harness.Results) -> list[str]:
    lines = []
    for precision, networks in part["models"].items():
        peak = part["peak"][precision]
        lines += [
            f"Products in {precision}; peak {peak['flops'] / 1e12:.3g} TFLOP/s "
            f"({peak['source']}); a large matrix product reaches "
            f"{peak['matmul_flops'] / 1e12:.3g}.",
            "",
            "| ms per clip | clips | uap_jax | of peak | PyTorch | of peak | "
            "PyTorch / uap_jax | compile, s |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        for name, found in networks.items():
            for what in ("gradient", "step"):
                cells = _network_cells(found[what])
                compile_s = found["gradient"]["compile_s"]
                if what == "step":
                    compile_s = found["step"]["uap_jax_compile_s"]
                lines.append(
                    f"| {name}, {what} | {found['batch_size']} | "
                    f"{' | '.join(cells)} | {compile_s:.1f} |"
                )
        lines.append("")
    return [
        *lines,
        "Random weights and clips, batches of one size in both. Gradient: of the "
        "cross-entropy in the clips. Step: of the penalty attack. Medians, timed in "
        "turns; the ratio is taken pair by pair (median, smallest to largest). PyTorch "
        "is the fastest of its layouts, without compilation. Operations are XLA's "
        "count of the network's plain form.",
    ]


def _network_cells(found: harness.Results) -> list[str]:
    cells = []
    for framework in ("uap_jax", "pytorch"):
        ms = found["ms_per_clip"].get(framework)
        if ms:
            share = found["shares_of_peak"][framework]
            cells += [f"{statistics.median(ms):.4g}", f"{share:.1%}"]
        else:
            cells += ["", ""]
    ratios = found.get("ratios")
    if not ratios:
        return [*cells, ""]
    spread = f"({min(ratios):.2f} to {max(ratios):.2f})"
    return [*cells, f"{statistics.median(ratios):.2f} {spread}"]


def _targets(part: harness.Results) -> list[str]:
    lines = [
        "| one pass | clips | targets | seconds | times one | compile, s | peak, GB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    sources = set()
    for method in ("penalty", "greedy"):
        found = part.get(method, {"widths": {}})
        times = times_one(found["widths"])
        for width, measured in found["widths"].items():
            sources.add(measured["memory"])
            lines.append(
                f"| {method} | {found['num_clips']} | {width} | "
                f"{statistics.median(measured['seconds']):.3f} | "
                f"{times.get(str(width), 1):.2f} | {measured['compile_s']:.1f} | "
                f"{measured['peak_gb']:.2f} |"
            )
    return [
        *lines,
        "",
        f"The paper's settings, random weights and clips of {part['num_samples']} "
        f"samples. Memory: the largest so far, of the {' and '.join(sources)}.",
    ]


def _toolboxes(part: harness.Results) -> list[str]:
    lines = ["| DDN | seconds | over uap_jax | first call, s |"]
    lines.append("| --- | --- | --- | --- |")
    compared = part.get("ddn") or {"seconds": {}}
    lines += [
        f"| {name} | {statistics.median(seconds):.3f} | "
        f"{statistics.median(compared['ratios'][name]):.2f} | "
        f"{compared['first_call_s'][name]:.1f} |"
        for name, seconds in compared["seconds"].items()
    ]
    compared = part.get("greedy")
    if not compared:
        return lines
    goal = compared["settings"]["target_asr"]
    lines += ["", f"| greedy | seconds to a training ASR of {goal} | ASR | SNR (dB) |"]
    lines.append("| --- | --- | --- | --- |")
    lines += [
        f"| uap_jax, {name} | {run['seconds']:.2f} | {run['asr']:.3f} | "
        f"{snr_text(run)} |"
        for name, run in compared["uap_jax"].items()
    ]
    for name, run in compared["art"].items():
        reached = run["reached_s"]
        text = f"{reached:.2f}" if reached else f"not in {run['seconds']:.0f}"
        lines.append(f"| ART, {name} | {text} | {run['asr']:.3f} | {snr_text(run)} |")
    lines += ["", f"Greedy's victim: {compared['victim']['name']}."]
    return lines


def _largest(part: harness.Results) -> list[str]:
    lines = [
        f"sincnet_vgg19, {part.get('weights')}; untargeted penalty attack with the "
        f"paper's settings on {part.get('num_clips')} clips of "
        f"{part.get('num_samples')} samples of the built-in corpus (prepared in "
        f"{part['corpus_s']:.1f} s). Compiling {part.get('compile_s', 0):.1f} s. "
        f"Stopped: {part.get('stopped', 'by the end of the time')}.",
        "",
        "| pass | seconds | training ASR | SPL (dB) |",
        "| --- | --- | --- | --- |",
    ]
    for number, entry in enumerate(part.get("passes", []), start=1):
        lines.append(
            f"| {number} | {entry['seconds']:.2f} | {entry['asr']:.3f} | "
            f"{entry['spl_db']:.1f} |"
        )
    return lines


def _training(part: harness.Results) -> list[str]:
    lines = [
        f"SpchCMD on {part['num_clips']} clips of {part['num_samples']} samples of "
        "noise; the first epoch includes compiling.",
        "",
        "| epoch | seconds | CPU seconds |",
        "| --- | --- | --- |",
    ]
    for number, epoch in enumerate(part["epochs"], start=1):
        lines.append(f"| {number} | {epoch['wall_s']:.2f} | {epoch['cpu_s']:.2f} |")
    return lines


_SECTIONS = {
    1: _readme,
    2: _networks,
    3: _targets,
    4: _toolboxes,
    5: _largest,
    6: _training,
}
