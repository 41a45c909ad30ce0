"""A card's examples are its tests: structure, numbers, refusals.

An example's models are ONNX text. A weight is declared with its type and no value; it gets seeded random values, so
that a card shows what matters and not digits.
"""

from __future__ import annotations

import math
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnx.helper
import onnx.numpy_helper
import onnx.parser

from graphopt.catalog.card import Card, Example
from graphopt.catalog.rules import Rule, bind
from graphopt.catalog.structure import difference
from graphopt.catalog.values import TargetRef
from graphopt.errors import GraphoptError
from graphopt.ir.channels import channel_groups
from graphopt.ir.graph import Graph
from graphopt.ir.op import Array, Op
from graphopt.ir.resize import Selection, resize
from graphopt.onnx_io.load import load
from graphopt.onnx_io.save import save
from graphopt.onnx_io.worker import Answer, Failure, Task, work
from graphopt.rewrites import is_site_rewrite, is_width_rewrite
from graphopt.rewrites.rewrite import Match, Refusal, SiteRewrite

OPSET, IR_VERSION = 18, 8
"""For examples that give a graph and not a whole model."""

MAX_ELEMENTS = 1 << 22
"""Elements of one tensor that gets random values; an example is small."""

_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)

ROUNDING = 1e-5
"""Largest difference of an exact rewrite, relative to the largest output: float32 sums of some hundred terms."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a card.

    Attributes:
        file: the card.
        field: the part of it (dotted).
        message: one line.
    """

    file: str
    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}: {self.field}: {self.message}"


@dataclass(frozen=True, slots=True)
class _Proof:
    """Two files whose outputs are to be compared, for one example."""

    card: Card
    example: Example
    before: Path
    after: Path
    feeds: dict[str, Array]
    is_exact: bool


def check_card(card: Card) -> list[Problem]:
    """Do what :func:`check_cards` does for one card."""
    return check_cards([card])


def check_cards(cards: Sequence[Card]) -> list[Problem]:
    """Run the examples of ``cards``: each must change, compute or refuse as it says.

    Returns:
        What is wrong, in the order of the cards; empty when all is well.
    """
    problems: list[Problem] = []
    with tempfile.TemporaryDirectory(prefix="graphopt-") as name:
        proofs: list[_Proof] = []
        for card in cards:
            for number, example in enumerate(card.examples):
                folder = Path(name) / f"{card.id}-{number}"
                folder.mkdir()
                try:
                    found = _check(card, example, folder)
                except (GraphoptError, ValueError) as error:
                    found = " ".join(str(error).split())
                if isinstance(found, str):
                    problems.append(Problem(str(card.file), example.field, found))
                elif found is not None:
                    proofs.append(found)
        problems += _compare(proofs)
    order = {str(card.file): place for place, card in enumerate(cards)}
    return sorted(problems, key=lambda problem: (order[problem.file], problem.field))


def model_of(text: str) -> onnx.ModelProto:
    """Parse an example's model: a graph, or a whole model with its ``<ir_version: ..., opset_import: ...>``.

    Raises:
        ValueError: the text is no valid model, or its weights are too big.
    """
    try:
        if text.lstrip().startswith("<"):
            model = onnx.parser.parse_model(text)
        else:
            opset = onnx.helper.make_opsetid("", OPSET)
            model = onnx.helper.make_model(onnx.parser.parse_graph(text), opset_imports=[opset], ir_version=IR_VERSION)
        _fill(model.graph)
        onnx.checker.check_model(model, full_check=True)
    except (onnx.parser.ParseError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ValueError(f"no valid ONNX text: {error}") from error
    return model


def _fill(graph: onnx.GraphProto) -> None:
    """Turn the declared tensors that nothing makes into weights of random values."""
    made = {output for node in graph.node for output in node.output}
    made |= {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    variances = {node.input[4] for node in graph.node if node.op_type == "BatchNormalization" and len(node.input) > 4}
    for value in [value for value in graph.value_info if value.name not in made]:
        shape = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        if value.type.tensor_type.elem_type not in _FLOATS or not all(shape):
            raise ValueError(f"weight {value.name!r} without a value must have a float type and a fixed shape")
        values = random_values(value.name, shape)
        values = np.abs(values) + 0.5 if value.name in variances else values
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        graph.initializer.append(onnx.numpy_helper.from_array(values.astype(dtype), value.name))
        graph.value_info.remove(value)


def random_values(name: str, shape: tuple[int, ...]) -> Array:
    """Normal values, the same for the same name everywhere.

    Raises:
        ValueError: more of them than an example should need.
    """
    if math.prod(shape) > MAX_ELEMENTS:
        raise ValueError(f"{name!r} is too big for an example: over {MAX_ELEMENTS} elements")
    return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)


def _check(card: Card, example: Example, folder: Path) -> _Proof | str | None:
    """Check structure and refusal; what is left to compare by running, or what is wrong, or nothing more."""
    params = {**card.params, **example.params}
    for name, value in sorted(params.items()):
        if isinstance(value, TargetRef):
            return f"the example must set the parameter {name!r}, which the card takes from the target"
    rule = bind(card, {}, example.params)
    before = _load(example.before, folder / "before.onnx")
    applied = _apply_sites(before, rule) if is_site_rewrite(rule.rewrite) else _apply_widths(before, rule)
    if isinstance(applied, tuple):
        reasons = [refusal.reason for refusal in applied]
        said = "; ".join(reasons) or "nothing here concerns the rewrite"
        if example.unchanged is None:
            return f"the rule does not apply: {said}"
        return None if example.unchanged in reasons else f"the refusal is {said!r}, not {example.unchanged!r}"
    after, is_exact = applied.graph, applied.is_exact
    if example.after is None:
        return "the rule applies, and the example says that it does not"
    wanted = _load(example.after, folder / "wanted.onnx")
    mismatch = difference(after, wanted)
    if mismatch:
        return f"'after' is not what the rule makes: {mismatch}"
    save(after, folder / "after.onnx")
    feeds = {name: _feed(before, name) for name in before.inputs}
    return _Proof(card, example, folder / "before.onnx", folder / "after.onnx", feeds, is_exact)


@dataclass(frozen=True, slots=True)
class _Applied:
    graph: Graph
    is_exact: bool


def _apply_sites(graph: Graph, rule: Rule) -> _Applied | tuple[Refusal, ...]:
    """Apply the rule wherever it matches, first come first served; the refusals where it matches nowhere."""
    rewrite: Any = rule.rewrite
    answers = [_at_present(graph, rewrite, op, rule.params) for op in graph.ops() if op.op_type in rewrite.anchors]
    taken: set[str] = set()
    matches: list[Match] = []
    for answer in answers:
        if isinstance(answer, Match) and not taken & set(answer.removes):
            taken |= set(answer.removes)
            matches.append(answer)
    if not matches:
        return tuple(answer for answer in answers if isinstance(answer, Refusal))
    patches = [rewrite.rewrite(graph, match, rule.params) for match in matches]
    is_exact = all((match.safety or rule.safety) == "exact" for match in matches)
    return _Applied(graph.edited(patches), is_exact)


def _at_present(graph: Graph, rewrite: SiteRewrite, op: Op, params: Any) -> Match | Refusal | None:
    """The answer of a rewrite, a refusal where a match needs widths that are not there."""
    answer = rewrite.match(graph, op, params)
    for condition in answer.conditions if isinstance(answer, Match) else ():
        size = (graph.shape(condition.tensor) or ())[condition.axis]
        reason = condition.refusal(size) if isinstance(size, int) else "the shape is not known"
        if reason:
            return Refusal(op.key, reason)
    return answer


def _apply_widths(graph: Graph, rule: Rule) -> _Applied | tuple[Refusal, ...]:
    """Take the first width on offer for every group; the refusals where there is none."""
    assert is_width_rewrite(rule.rewrite)
    channels = channel_groups(graph)
    refusals: list[Refusal] = []
    chosen: dict[str, Selection] = {}
    for group in channels.groups:
        offer = rule.rewrite.offer(group, rule.params)
        if isinstance(offer, Refusal):
            refusals.append(offer)
        else:
            width = offer.widths[0]
            keep = tuple(range(min(width, group.size)))
            chosen[group.id] = Selection(keep, max(width - group.size, 0))
    if not chosen:
        return tuple(refusals)
    return _Applied(graph.edited([resize(graph, channels, chosen)]), rule.safety == "exact")


def _load(text: str, file: Path) -> Graph:
    onnx.save(model_of(text), file)
    return load(file)


def _feed(graph: Graph, name: str) -> Array:
    shape = graph.static_shape(name)
    if shape is None:
        raise ValueError(f"input {name!r} of an example that shows a change must have a fixed shape")
    return random_values(name, shape).astype(graph.dtype(name) or np.float32)


def _compare(proofs: Sequence[_Proof]) -> list[Problem]:
    """Run both files of every proof in one process; exact ones must agree, others keep their outputs' shapes."""
    tasks = [
        Task("run", file, optimisation="none", inputs=(proof.feeds,))
        for proof in proofs
        for file in (proof.before, proof.after)
    ]
    answers = work(tasks)
    found = []
    for proof, before, after in zip(proofs, answers[::2], answers[1::2], strict=True):
        message = _disagreement(before, after, proof.is_exact)
        if message:
            found.append(Problem(str(proof.card.file), proof.example.field, message))
    return found


def _disagreement(before: Answer | Failure, after: Answer | Failure, is_exact: bool) -> str:
    for answer, name in ((before, "before"), (after, "after")):
        if isinstance(answer, Failure):
            return f"{name!r} does not run: {answer.reason}"
    assert isinstance(before, Answer)
    assert isinstance(after, Answer)
    for name, wanted in before.runs[0].items():
        found = after.runs[0][name]
        if found.shape != wanted.shape:
            return f"output {name!r} had shape {wanted.shape} and has {found.shape}"
        scale = float(np.abs(wanted).max(initial=0.0)) or 1.0
        error = float(np.abs(found - wanted).max(initial=0.0)) / scale
        if is_exact and not error <= ROUNDING:
            return f"output {name!r} differs by {error:.1e} of its largest value; exact means {ROUNDING:.0e} at most"
    return ""
