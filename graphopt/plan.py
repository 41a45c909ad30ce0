"""The plan: one value for each decision, as a file that a person can read, edit, review in a diff and replay.

A plan holds everything that a replay needs (the rules with their parameters, not just their names), so it gives the
same model wherever the cards and targets have gone since. Gains and alternatives stand in it as comments: they help
the reader, and editing them changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from graphopt.errors import PlanError
from graphopt.ir.op import IMPORTANCES, SAFETY_LEVELS, Importance, Safety

FORMAT = 1
"""Version of the plan file. A reader refuses a newer one."""

KEEP = "keep"
"""The option of every site that leaves it as it is."""

OpOrder = Literal["file", "memory"]
"""How the ops stand: as in the file, or in the order that needs the least memory."""

OP_ORDERS: tuple[OpOrder, ...] = get_args(OpOrder)

Word = TypeVar("Word", bound=str)

ParameterValue = int | float | str | bool | tuple[int | float | str, ...]


@dataclass(frozen=True, slots=True)
class PlannedRule:
    """A rule as it was in force: its rewrite and parameters, already bound to the target."""

    id: str
    rewrite: str
    safety: str
    params: tuple[tuple[str, ParameterValue], ...] = ()


@dataclass(frozen=True, slots=True)
class SiteChoice:
    """The option chosen at a site: :data:`KEEP`, a rule id, or several joined by ``+``."""

    site: str
    choice: str


@dataclass(frozen=True, slots=True)
class WidthChoice:
    """The width chosen for a channel group that had ``size`` channels."""

    group: str
    size: int
    width: int


@dataclass(frozen=True, slots=True)
class Plan:
    """One value for each decision, for one model.

    Attributes:
        model: file name of the model, for the reader.
        model_digest: ``sha256:...`` of the model file with its external data.
        target: name of the target that it was priced for, for the reader.
        normalised: whether the decisions are about the normalised graph.
        rules: the rules that the choices use.
        sites: one choice for each site.
        widths: the widths, one for each group on offer.
        knobs: (name, value) of the model-wide values.
        input_shapes: concrete shapes that dynamic inputs were given.
        allow: the least safe kind of change that was on offer. It and ``protect`` decide where sites begin and end.
        protect: globs of what was to stay as it is.
        importance: what chooses the channels that stay where a group shrinks.
        op_order: how the ops stand.
        resolution: height and width of the images, by input name, where they are not the model's own.
    """

    model: str
    model_digest: str
    target: str
    normalised: bool
    rules: tuple[PlannedRule, ...] = ()
    sites: tuple[SiteChoice, ...] = ()
    widths: tuple[WidthChoice, ...] = ()
    knobs: tuple[tuple[str, float], ...] = ()
    input_shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()
    allow: Safety = "retrain"
    protect: tuple[str, ...] = ()
    importance: Importance = "auto"
    op_order: OpOrder = "file"
    resolution: tuple[tuple[str, tuple[int, int]], ...] = ()

    @property
    def digest(self) -> str:
        """``sha256:...`` of the decisions (of what a replay depends on, comments and names for readers left out)."""
        content = json.dumps(
            [
                FORMAT,
                self.model_digest,
                self.normalised,
                [[rule.id, rule.rewrite, rule.params] for rule in self.rules],
                [[site.site, site.choice] for site in self.sites if site.choice != KEEP],
                [[width.group, width.width] for width in self.widths if width.width != width.size],
                self.input_shapes,
                self.allow,
                self.protect,
                self.importance,
                *([] if self.op_order == "file" else [self.op_order]),
                *([["resolution", sorted(self.resolution)]] if self.resolution else []),
            ],
            sort_keys=True,
        )
        return "sha256:" + hashlib.sha256(content.encode()).hexdigest()

    @property
    def changes(self) -> int:
        """Number of decisions that change the model."""
        made = sum(s.choice != KEEP for s in self.sites) + sum(w.width != w.size for w in self.widths)
        return made + (self.op_order != "file") + len(self.resolution)


# -- writing ----------------------------------------------------------------------------------------------------------


def plan_to_toml(plan: Plan, notes: Mapping[tuple[str, str], Sequence[str]] | None = None) -> str:
    """Return the plan as TOML text.

    Args:
        plan: the plan.
        notes: comment lines by (``site`` or ``width``, id), shown under the choice (options, gains, safety).
    """
    notes = notes or {}
    lines = [
        "# graphopt plan: edit a `choice` or a `width`, then run  graphopt apply MODEL PLAN -o OUT",
        f"format = {FORMAT}",
        *([] if plan.op_order == "file" else [f"op_order = {_toml(plan.op_order)}"]),
        "",
        "[model]",
        f"file = {_toml(plan.model)}",
        f"digest = {_toml(plan.model_digest)}",
        f"normalised = {_toml(plan.normalised)}",
    ]
    if plan.input_shapes:
        shapes = ", ".join(f"{_toml(name)} = {_toml(shape)}" for name, shape in plan.input_shapes)
        lines.append(f"input_shapes = {{ {shapes} }}")
    lines += ["", "[target]", f"name = {_toml(plan.target)}"]
    lines += ["", "[scope]", f"allow = {_toml(plan.allow)}", f"protect = {_toml(plan.protect)}"]
    lines.append(f"importance = {_toml(plan.importance)}")
    if plan.knobs or plan.resolution:
        lines += ["", "[knobs]", *(f"{_toml(name)} = {_toml(value)}" for name, value in plan.knobs)]
    if plan.resolution:
        sizes = ", ".join(f"{_toml(name)} = {_toml(size)}" for name, size in plan.resolution)
        lines.append(f"resolution = {{ {sizes} }}")
        lines += [_comment(note) for note in notes.get(("knob", "resolution"), ())]
    for rule in plan.rules:
        lines += ["", "[[rule]]", f"id = {_toml(rule.id)}", f"rewrite = {_toml(rule.rewrite)}"]
        lines.append(f"safety = {_toml(rule.safety)}")
        params = ", ".join(f"{_toml(name)} = {_toml(value)}" for name, value in rule.params)
        lines.append(f"params = {{ {params} }}" if params else "params = {}")
    for site in plan.sites:
        lines += ["", "[[site]]", f"id = {_toml(site.site)}", f"choice = {_toml(site.choice)}"]
        lines += [_comment(note) for note in notes.get(("site", site.site), ())]
    for width in plan.widths:
        lines += ["", "[[width]]", f"group = {_toml(width.group)}", f"size = {width.size}", f"width = {width.width}"]
        lines += [_comment(note) for note in notes.get(("width", width.group), ())]
    return "\n".join(lines) + "\n"


def _comment(note: str) -> str:
    """One comment line; names in it are untrusted, so control characters are shown escaped."""
    return "#   " + "".join(c if c.isprintable() else repr(c)[1:-1] for c in note)


def _toml(value: object) -> str:
    """Return a TOML value. Strings are written as basic strings: JSON's escapes are a subset of TOML's."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


# -- reading ----------------------------------------------------------------------------------------------------------


def read_plan(path: str | Path) -> Plan:
    """Read a plan file.

    Raises:
        PlanError: when the file cannot be read, is no TOML, or holds an unknown key or a value of the wrong type;
            the message names the file and the field.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{path}: cannot read the plan: {getattr(error, 'strerror', None) or error}") from error
    return plan_from_toml(text, file=str(path))


def plan_from_toml(text: str, *, file: str = "plan") -> Plan:
    """Parse plan text; ``file`` is named in errors. Raises :class:`PlanError` as :func:`read_plan`."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PlanError(f"{file}: not a plan: {error}") from error
    reader = _Reader(file)
    if reader.get(data, "format", int, "") != FORMAT:
        raise PlanError(f"{file}: format: this graphopt reads plan format {FORMAT}")
    reader.only(data, {"format", "op_order", "model", "target", "scope", "knobs", "rule", "site", "width"}, "")
    model = reader.get(data, "model", dict, "")
    reader.only(model, {"file", "digest", "normalised", "input_shapes"}, "model")
    target = reader.get(data, "target", dict, "")
    reader.only(target, {"name"}, "target")
    scope = reader.get(data, "scope", dict, "", {})
    reader.only(scope, {"allow", "protect", "importance"}, "scope")
    shapes = reader.get(model, "input_shapes", dict, "model", {})
    knobs = reader.get(data, "knobs", dict, "", {})
    sizes = reader.get(knobs, "resolution", dict, "knobs", {})
    return Plan(
        model=reader.get(model, "file", str, "model"),
        model_digest=reader.get(model, "digest", str, "model"),
        target=reader.get(target, "name", str, "target"),
        normalised=reader.get(model, "normalised", bool, "model"),
        rules=tuple(reader.rule(item, where) for item, where in reader.tables(data, "rule")),
        sites=tuple(reader.site(item, where) for item, where in reader.tables(data, "site")),
        widths=tuple(reader.width(item, where) for item, where in reader.tables(data, "width")),
        knobs=tuple(
            (name, float(reader.get(knobs, name, (int, float), "knobs"))) for name in knobs if name != "resolution"
        ),
        input_shapes=tuple((name, reader.shape(shapes, name, "model.input_shapes")) for name in shapes),
        allow=reader.one_of(SAFETY_LEVELS, scope, "allow", "scope", "retrain"),
        protect=reader.texts(scope, "protect", "scope"),
        importance=reader.one_of(IMPORTANCES, scope, "importance", "scope", "auto"),
        op_order=reader.one_of(OP_ORDERS, data, "op_order", "", "file"),
        resolution=tuple((name, reader.size(sizes, name)) for name in sizes),
    )


class _Reader:
    """Takes values out of parsed TOML, with one kind of message for everything that can be wrong."""

    def __init__(self, file: str) -> None:
        self.file = file

    def fail(self, field: str, message: str) -> PlanError:
        return PlanError(f"{self.file}: {field}: {message}")

    def get(self, table: dict[str, Any], key: str, kind: Any, where: str, default: Any = ...) -> Any:
        field = f"{where}.{key}" if where else key
        if key not in table:
            if default is ...:
                raise self.fail(field, "is missing")
            return default
        value = table[key]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            kinds = kind if isinstance(kind, tuple) else (kind,)
            raise self.fail(field, f"must be {' or '.join(k.__name__ for k in kinds)}, not {value!r}")
        return value

    def only(self, table: dict[str, Any], known: set[str], where: str) -> None:
        for key in table:
            if key not in known:
                raise self.fail(
                    f"{where}.{key}" if where else key, f"unknown key; known are {', '.join(sorted(known))}"
                )

    def tables(self, data: dict[str, Any], key: str) -> list[tuple[dict[str, Any], str]]:
        items = self.get(data, key, list, "", [])
        for i, item in enumerate(items):
            if not isinstance(item, dict):
                raise self.fail(f"{key}[{i}]", f"must be a table, not {item!r}")
        return [(item, f"{key}[{i}]") for i, item in enumerate(items)]

    def rule(self, item: dict[str, Any], where: str) -> PlannedRule:
        self.only(item, {"id", "rewrite", "safety", "params"}, where)
        params = self.get(item, "params", dict, where, {})
        return PlannedRule(
            self.get(item, "id", str, where),
            self.get(item, "rewrite", str, where),
            self.get(item, "safety", str, where),
            tuple((name, tuple(v) if isinstance(v, list) else v) for name, v in params.items()),
        )

    def site(self, item: dict[str, Any], where: str) -> SiteChoice:
        self.only(item, {"id", "choice"}, where)
        return SiteChoice(self.get(item, "id", str, where), self.get(item, "choice", str, where))

    def width(self, item: dict[str, Any], where: str) -> WidthChoice:
        self.only(item, {"group", "size", "width"}, where)
        size = self.get(item, "size", int, where)
        width = self.get(item, "width", int, where)
        if width < 1:
            raise self.fail(f"{where}.width", f"must be at least 1, not {width}")
        return WidthChoice(self.get(item, "group", str, where), size, width)

    def one_of(self, known: Sequence[Word], table: dict[str, Any], key: str, where: str, default: Word) -> Word:
        value = self.get(table, key, str, where, default)
        for word in known:
            if value == word:
                return word
        raise self.fail(f"{where}.{key}" if where else key, f"must be one of {', '.join(known)}, not {value!r}")

    def texts(self, table: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
        values = self.get(table, key, list, where, [])
        if not all(isinstance(value, str) for value in values):
            raise self.fail(f"{where}.{key}", f"must be a list of texts, not {values!r}")
        return tuple(values)

    def shape(self, shapes: dict[str, Any], name: str, where: str) -> tuple[int, ...]:
        value = self.get(shapes, name, list, where)
        if not all(isinstance(dim, int) and not isinstance(dim, bool) and dim > 0 for dim in value):
            raise self.fail(f"{where}.{name}", f"must be positive whole numbers, not {value!r}")
        return tuple(value)

    def size(self, sizes: dict[str, Any], name: str) -> tuple[int, int]:
        value = self.shape(sizes, name, "knobs.resolution")
        if len(value) != 2:
            raise self.fail(f"knobs.resolution.{name}", f"must be [height, width], not {list(value)!r}")
        return value[0], value[1]
