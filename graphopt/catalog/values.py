"""From TOML values to the typed parameters of a rewrite, target properties looked up on the way."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from graphopt.errors import ConfigError, did_you_mean
from graphopt.strict import Table, describe

Property = int | float | str


@dataclasses.dataclass(frozen=True, slots=True)
class TargetRef:
    """A parameter's value that is a property of the target: ``{ target = "parallelism" }``."""

    name: str


def read_params(table: Table, params_type: type[Any], owner: str) -> dict[str, Any]:
    """Read parameters that a card, an example or a pack sets: typed values and :class:`TargetRef`.

    Args:
        table: the TOML table.
        params_type: dataclass that declares them.
        owner: who takes them, for messages.

    Raises:
        ConfigError: unknown parameter, or a value of the wrong type.
    """
    hints = get_type_hints(params_type)
    found: dict[str, Any] = {}
    for key, value in table.values.items():
        if key not in hints:
            known = f"known: {', '.join(hints)}" if hints else "it has none"
            raise table.error(key, f"unknown parameter of {owner}{did_you_mean(key, hints)}; {known}")
        found[key] = _reference(table, key, value) if isinstance(value, dict) else _typed(table, key, value, hints[key])
    return found


def bind_params(
    params_type: type[Any],
    values: Mapping[str, Any],
    properties: Mapping[str, Property],
    error: Callable[..., ConfigError],
) -> Any:
    """Make the parameters of a rewrite: target properties looked up, types checked, defaults filled in.

    Args:
        params_type: dataclass that declares them.
        values: what is set, from :func:`read_params`.
        properties: what the target offers to cards.
        error: makes the exception from a parameter's name and a message.

    Raises:
        ConfigError: a property that the target lacks, a parameter that nobody set, an impossible value.
    """
    hints = get_type_hints(params_type)
    bound: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, TargetRef):
            if value.name not in properties:
                near = did_you_mean(value.name, properties)
                raise error(
                    key, f"the target has no property {value.name!r}{near}; known: {', '.join(sorted(properties))}"
                )
            value = convert(properties[value.name], hints[key])
            if value is None:
                raise error(key, f"the target's property is not {spell(hints[key])}")
        bound[key] = value
    for declared in dataclasses.fields(params_type):
        required = declared.default is dataclasses.MISSING and declared.default_factory is dataclasses.MISSING
        if required and declared.name not in bound:
            raise error(declared.name, "is missing, and the rewrite has no default for it")
    try:
        return params_type(**bound)
    except ValueError as problem:
        raise error("", str(problem)) from problem


def convert(value: Any, wanted: Any) -> Any:
    """Return ``value`` as the annotation ``wanted`` asks; ``None``, which no TOML value is, where it does not fit."""
    origin, arguments = get_origin(wanted), get_args(wanted)
    if origin in (Union, types.UnionType):
        fits = (convert(value, one) for one in arguments if one is not type(None))
        return next((one for one in fits if one is not None), None)
    if origin is Literal:
        return value if value in arguments else None
    if origin is tuple:
        items = [convert(item, arguments[0]) for item in value] if isinstance(value, list | tuple) else [None]
        return None if any(item is None for item in items) else tuple(items)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, bool) and wanted is not bool:
        return None
    return value if isinstance(value, wanted) else None


def spell(wanted: Any) -> str:
    """Say in words what an annotation asks for."""
    origin, arguments = get_origin(wanted), get_args(wanted)
    if origin in (Union, types.UnionType):
        return " or ".join(spell(one) for one in arguments if one is not type(None))
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin is tuple:
        return f"a list, each {spell(arguments[0])}"
    return {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}[wanted]


def _reference(table: Table, key: str, value: dict[str, Any]) -> TargetRef:
    if list(value) != ["target"] or not isinstance(value["target"], str):
        raise table.error(key, 'a table must be { target = "name of a property" }')
    return TargetRef(value["target"])


def _typed(table: Table, key: str, value: Any, wanted: Any) -> Any:
    typed = convert(value, wanted)
    if typed is None:
        raise table.error(key, f"must be {spell(wanted)}, not {describe(value)}")
    return typed
