"""The table and the picture of `articles.py`, from its results file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from graphopt.report import format as f
from graphopt.report.charts import WIDTH, open_svg, safe
from graphopt.report.picture import placed, whole_file

_NAMES = {"ap50": "AP@0.5", "miou": "mIoU", "top1": "top-1"}
_NUMBERS = ("latency", "peak", "size", "onnxruntime", "vela u55-256", "metric", "repaired", "fine-tuned", "validation")
_COSTS = ("latency_us", "peak_activation_bytes", "parameter_bytes")
_ROW, _LEFT, _BARS = 26, 330, 430


def rows(results: Mapping[str, Any]) -> Iterator[tuple[str, str, str, dict[str, Any], dict[str, Any]]]:
    """Yield task, target, variant, the chosen attempt, and the whole entry, in reading order."""
    for key in sorted(results, key=lambda key: ("detector" not in key, key.split("|")[0], "npu-32" not in key, key)):
        entry = results[key]
        if "chosen" in entry:
            task, target, variant = key.split("|")
            yield task, target, variant, entry["attempts"][entry["chosen"]], entry


def show(results: Mapping[str, Any]) -> None:
    """Print everything."""
    screen = Console(width=190, highlight=False)
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("task, target", "variant", "x", "fused"):
        made.add_column(column)
    for column in _NUMBERS:
        made.add_column(column, justify="right")
    for key, entry in results.items():
        if key.endswith("|original"):
            name, before, tuned = entry["metric"], entry["original"], entry.get("tuned")
            made.add_row(
                key.split("|")[0], "original", *[""] * 7, f"{_NAMES[name]} {100 * before['test'][name]:.2f}", "",
                "-" if tuned is None else f"{100 * tuned['test'][name]:.2f}", f"{100 * before['validation'][name]:.2f}",
            )  # fmt: skip
    for task, target, variant, attempt, entry in rows(results):
        name = results[f"{task}|original"]["metric"]
        before, after = attempt["before"], attempt["after"]
        costs = [f.change(before[cost], after[cost]) for cost in _COSTS]
        measured = [f.change(*pair) for _, pair in sorted(entry.get("measured", {}).items())] or ["-", "-"]
        multiplier = attempt["multiplier"]
        made.add_row(
            f"{task} {target}", variant, "" if multiplier is None else f"{multiplier:g}", str(attempt["fused"]),
            *costs, *measured, "", f"{100 * attempt['repaired']['test'][name]:.2f}",
            f"{100 * attempt['tuned']['test'][name]:.2f}", f"{100 * attempt['tuned']['validation'][name]:.2f}",
        )  # fmt: skip
    screen.print(made)
    for task, target, variant, _, entry in rows(results):
        if entry["worse"] and variant[:2] in ("V2", "A"):
            blocks = ", ".join(f"{where} ({f.latency(cost)} slower)" for where, cost in entry["worse"])
            screen.print(f"{task} on {target}: fusing would slow down {blocks}")


def picture(results: Mapping[str, Any]) -> str:
    """Return estimated latency before and after as bars, with the metric beside each, as a whole SVG file."""
    found = list(rows(results))
    height = _ROW * len(found) + 8
    parts = [open_svg(WIDTH, height, "Latency of each variant against its original")]
    for place, (task, target, variant, attempt, _) in enumerate(found):
        original = results[f"{task}|original"]
        name = original["metric"]
        share = attempt["after"]["latency_us"] / attempt["before"]["latency_us"]
        y = _ROW * place + 4
        parts.append(
            f'<text x="{_LEFT - 10}" y="{y + 14}" text-anchor="end">{safe(f"{task}, {target}: {variant}")}</text>'
        )
        parts.append(f'<rect class="was" x="{_LEFT}" y="{y}" width="{_BARS}" height="18" rx="3"/>')
        parts.append(f'<rect class="compute" x="{_LEFT}" y="{y}" width="{_BARS * share:.1f}" height="18" rx="3"/>')
        steps = [100 * one["test"][name] for one in (original["original"], attempt["repaired"], attempt["tuned"])]
        text = (
            f"{100 * (share - 1):+.1f} %   {_NAMES[name]} {steps[0]:.1f}, repaired {steps[1]:.1f}, tuned {steps[2]:.1f}"
        )
        parts.append(f'<text x="{_LEFT + _BARS + 12}" y="{y + 14}">{safe(text)}</text>')
    parts.append("</svg>")
    lead = "Estimated latency of each result as a share of the original's, and what became of the task's metric"
    return whole_file(
        "The articles' ablations, on trained sample models", lead, [placed("".join(parts), 84, height)], 84 + height
    )
