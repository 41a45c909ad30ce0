"""Every exact rule, alone and all together, wherever it applies on real models: equal within the model's own noise.

The search takes a rule only where it pays; here every place is taken, whatever it costs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from graphopt.apply import apply_actions
from graphopt.decide import actions_of
from graphopt.onnx_io.save import save
from graphopt.prepare import find_catalog, find_rules, open_space, open_subject
from graphopt.resources import sample_models_dir
from graphopt.results import Options
from graphopt.space.compiler import compile_table
from graphopt.space.site import KEEP, Option
from graphopt.space.space import Space
from graphopt.space.table import INVALID, CostTable
from graphopt.verification import Verification, verify

EXACT = (
    "swap-depthwise-for-dense",
    "swap-depthwise-for-grouped",
    "fold-space-to-depth-stem",
    "merge-linear-convs",
    "round-channels",
    "fuse-inverted-bottleneck",
)
"""The last is exact where no activation stands inside."""

MODELS = {
    "fashion_classifier.onnx": {},
    "efficientnet_lite0.onnx": {},
    "ch_PP-OCRv3_det_infer.onnx": {"x": (1, 3, 160, 160)},
    "ch_ppocr_mobile_v2.0_cls_infer.onnx": {"x": (1, 3, 48, 192)},
    "face_detection_front_128x128_barracuda.onnx": {},
}

FIRES = {
    "fashion_classifier.onnx": {*EXACT}
    - {"merge-linear-convs", "fuse-inverted-bottleneck", "fold-space-to-depth-stem"},
    "efficientnet_lite0.onnx": {"swap-depthwise-for-dense", "swap-depthwise-for-grouped", "fold-space-to-depth-stem"},
    "face_detection_front_128x128_barracuda.onnx": {"merge-linear-convs", "swap-depthwise-for-dense"},
}
"""Where a rule that never fires would prove nothing."""


def taken(space: Space, table: CostTable, wanted: Callable[[Option], bool], *, round_up: bool) -> np.ndarray:
    """The candidate that takes the largest wanted option of every site, and widens what can be widened."""
    row = table.default()
    options = {site.id: site.options for site in space.sites}
    for v, variable in enumerate(table.variables):
        if variable.kind == "width" and round_up:
            row[v] = len(variable.options) - 1
    for v, variable in enumerate(table.variables):
        if variable.kind != "site":
            continue
        for number in reversed(range(len(variable.options))):
            option = options[variable.id][number]
            if option.label == KEEP or not wanted(option):
                continue
            trial = row.copy()
            trial[v] = number
            if table.evaluate(trial[None], (INVALID,))[0, 0] == 0:
                row = trial
                break
    return row


def prove(model: Path, rule: str, out: Path) -> tuple[list[str], Verification] | None:
    """Take an exact rule (or ``all``) wherever it applies, write the model and compare.

    Returns:
        The rule that acted at each place, and the proof; ``None`` where there was no place.
    """
    shapes = MODELS[model.name]
    options = Options(target="npu-16", allow="exact", packs=("exact",), rules=("fuse-inverted-bottleneck",))
    subject = open_subject(model, "npu-16", input_shapes=shapes)
    catalog = find_catalog(options)
    space = open_space(subject, find_rules(catalog, subject.target, options), catalog, options)
    table = compile_table(space, subject.target)
    everything = rule == "all"
    row = taken(
        space,
        table,
        lambda option: everything or all(fired.rule.id == rule for fired in option.fired),
        round_up=everything or rule in ("round-channels", "swap-depthwise-for-grouped"),
    )
    sites, widths, safety = actions_of(space, table, row)
    assert safety == "exact"
    fired = [action.rule.id for action in sites] + [action.rule for action in widths]
    if not fired:
        return None
    save(apply_actions(space.graph, space.channels, sites, widths), out)
    return fired, verify(model, out, input_shapes=shapes)


@pytest.mark.parametrize("rule", [*EXACT, "all"])
@pytest.mark.parametrize("name", MODELS)
def test_outputs_stay(name: str, rule: str, real_models: tuple[Path, ...], tmp_path: Path) -> None:
    known = {path.name: path for path in (*real_models, sample_models_dir() / "fashion_classifier.onnx")}
    if name not in known:
        pytest.skip(f"{name} is not among the real models")
    found = prove(known[name], rule, tmp_path / "out.onnx")
    if found is None:
        assert rule not in FIRES.get(name, ())
        assert rule != "all"
        pytest.skip(f"{rule} finds no place in {name}")
    fired, proof = found
    assert rule == "all" or rule in fired
    assert proof.verdict == "equal", proof.reason
