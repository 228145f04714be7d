"""A diagnosis as a page: what is wrong, and what was measured."""

import math
from collections.abc import Mapping, Sequence

from vizkit import plots
from vizkit.diagnosis.findings import Finding
from vizkit.diagnosis.observed import Observed
from vizkit.diagnosis.trying import Tried
from vizkit.reports import Chart, Report, Rows, Section, Tone

TONES: dict[str, Tone] = {"fault": "bad", "warning": "warn", "note": ""}


def diagnosis_report(
    name: str, found: Sequence[Finding], seen: Observed, tried: Tried, note: str = ""
) -> Report:
    """Findings with evidence and advice first; then loss, layers, steps, and what was tried."""
    parts = [Section(f.title, [f.evidence, f"What to do: {f.advice}"], tone=TONES[f.severity]) for f in found]
    if not parts:
        parts = [Section("Nothing wrong was found", [_covered(seen)], tone="good")]
    error = [Section("It ended with an error", [seen.error], tone="bad")] if seen.error else []
    faults = sum(f.severity == "fault" for f in found)
    words = [name, f"{len(seen.steps)} steps", f"{faults} faults, {len(found) - faults} other findings"]
    return Report(
        heading=found[0].title if found else f"{name}: nothing wrong was found",
        line="  ·  ".join([*words, note] if note else words),
        sections=[*parts, *error, _course(seen, tried), _layers(seen), _steps(seen)],
        numbers={
            "findings": [
                {
                    "code": f.code,
                    "severity": f.severity,
                    "title": f.title,
                    "evidence": f.evidence,
                    "advice": f.advice,
                }
                for f in found
            ],
            "steps": len(seen.steps),
            "losses": [v if math.isfinite(v) else None for v in seen.losses],
            "error": seen.error,
        },
    )


def _covered(seen: Observed) -> str:
    judged = f" and {len(seen.validated)} of validation" if seen.validated else "; no validation was seen"
    return f"{len(seen.steps)} steps, {len(seen.trained)} training batches{judged} were looked at."


def _course(seen: Observed, tried: Tried) -> Section:
    """The loss; the learning rates tried; the tiny batch."""
    charts, words = [], []
    finite = [(k + 1, v) for k, v in enumerate(seen.losses) if math.isfinite(v)]
    if finite:
        xs, ys = zip(*finite, strict=True)
        log = "y" if min(ys) > 0 and max(ys) > 20 * min(ys) else ""
        charts.append(_lines("loss of each step", {"": (xs, ys)}, "step", "loss", log))
    rates = {f: v for f, v in sorted(tried.rates.items()) if math.isfinite(v)}
    if rates and seen.steps:
        peak = max(s.rate for s in seen.steps)
        series = {"": ([peak * f for f in rates], list(rates.values()))}
        charts.append(
            _lines(
                "loss after 30 steps at other rates", series, "learning rate", "loss", "xy", [(peak, "yours")]
            )
        )
    if tried.tiny is not None:
        words.append(f"A tiny batch, learnt by heart: from {tried.tiny[0]:.2f} to {tried.tiny[1]:.3f}.")
    if tried.gradients is not None:
        said = "are those by differences" if tried.gradients else "differ from those by differences"
        words.append(f"Gradients {said}.")
    return Section("Loss", words, charts=charts)


def _lines(
    caption: str,
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x: str,
    y: str,
    log: str = "",
    marks: Sequence[tuple[float, str]] = (),
) -> Chart:
    drawn = plots.lines(series, x=x, y=y, log=log, marks=marks)
    return plots.chart(caption, drawn, width=420, height=300)


def _layers(seen: Observed) -> Section:
    """Layers in order: their activations at the start and at the end, dead channels."""
    looked = [s for s in seen.steps if s.layers]
    if not looked:
        return Section("Layers", ["No layer was seen in training."])
    first, last = looked[0].layers, looked[-1].layers
    depth = list(range(1, len(first) + 1))
    stds = {
        "at the start": (depth, [layer.std for layer in first.values()]),
        "at the end": (depth, [last[n].std if n in last else math.nan for n in first]),
    }
    log = "y" if all(layer.std > 0 for layer in first.values()) else ""
    charts = [_lines("deviation of activations, from the picture to the scores", stds, "layer", "", log)]
    dead = [(k, n) for k, n in enumerate(first) if first[n].rectifier]
    if dead:
        shares = {
            "at the start": ([k + 1 for k, _ in dead], [100 * first[n].dead for _, n in dead]),
            "at the end": (
                [k + 1 for k, _ in dead],
                [100 * last[n].dead if n in last else math.nan for _, n in dead],
            ),
        }
        charts.append(_lines("channels that are 0 for a whole batch", shares, "layer", "%"))
    return Section("Layers", charts=charts)


def _steps(seen: Observed) -> Section:
    """Weights: gradients and what steps change."""
    looked = [(k + 1, s) for k, s in enumerate(seen.steps) if s.weights]
    if not looked:
        return Section("Weights", ["No step was looked at closely."])
    names = [n for n, w in looked[0][1].weights.items() if w.count > 16][:200]
    rows = []
    for name in names:
        own = [s.weights[name] for _, s in looked if name in s.weights]
        ratios = sorted(w.update / w.norm for w in own if w.norm > 0)
        ratio = f"{ratios[len(ratios) // 2]:.1e}" if ratios else ""
        gradient = own[-1].gradient / math.sqrt(own[-1].count)
        rows.append([name, f"{own[0].count:,}", f"{own[-1].norm:.3g}", f"{gradient:.1e}", ratio])
    words = "A step usually changes a weight by about a thousandth of its size."
    columns = ["weight", "numbers", "norm", "gradient (root mean square)", "update / weight (median)"]
    return Section("Weights", [words], tables=[Rows(columns, rows)])
