"""Options that several commands share, and the types of their values."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from graphopt.results import Options

Command = TypeVar("Command", bound=Callable[..., Any])

_UNITS = {"": 1, "b": 1, "k": 1000, "kb": 1000, "m": 10**6, "mb": 10**6, "g": 10**9, "gb": 10**9}
_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "t": 10**12}
_SIZE = re.compile(r"\s*([0-9]{1,6})(?:x([0-9]{1,6}))?\s*", re.ASCII)
MAX_SIDE = 1 << 14
"""Pixels of an image's side at most."""

_NUMBER = re.compile(r"\s*([0-9]*\.?[0-9]+(?:e[0-9]+)?)\s*([a-z]*)\s*", re.IGNORECASE)


class Amount(click.ParamType):  # type: ignore[type-arg]
    """A whole number with an optional unit: ``300000``, ``256KB`` (1000 bytes each), ``1.5MiB``, ``300M``."""

    name = "amount"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse the text; a number stays."""
        if isinstance(value, int):
            return value
        match = _NUMBER.fullmatch(value)
        if match is None or match[2].lower() not in _UNITS:
            self.fail(f"'{value}' is no amount; write for example 300000, 256KB, 256KiB or 1.5MB", param, ctx)
        amount = float(match[1]) * _UNITS[match[2].lower()]
        if not math.isfinite(amount) or amount < 1:
            self.fail(f"'{value}' must be at least 1", param, ctx)
        return int(amount)


class Share(float):
    """A share of what the original has; told from an amount by its type."""


class Bound(click.ParamType):  # type: ignore[type-arg]
    """An amount, or ``47%`` of what the original has."""

    def __init__(self, amount: click.ParamType) -> None:  # type: ignore[type-arg]
        self.name = amount.name
        self._amount = amount

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse the text; what is parsed stays."""
        if not isinstance(value, str) or not value.rstrip().endswith("%"):
            return value if isinstance(value, Share) else self._amount.convert(value, param, ctx)
        return Share(PositiveNumber().convert(value.rstrip().removesuffix("%"), param, ctx) / 100)


class InputShape(click.ParamType):  # type: ignore[type-arg]
    """``name:1,3,224,224`` (the name may hold colons: the last one counts), or ``auto``."""

    name = "name:dims"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, tuple[int, ...]]:
        """Parse the text."""
        from graphopt.onnx_io.shapes import LIKELY

        if isinstance(value, tuple):
            return value
        if value == "auto":
            return LIKELY, ()
        name, colon, dims = value.rpartition(":")
        parts = dims.split(",") if dims else []
        if not (name and colon) or not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
            self.fail(f"'{value}' is no input shape; write NAME:1,3,224,224, or auto", param, ctx)
        return name, tuple(int(part) for part in parts)


class Multipliers(click.ParamType):  # type: ignore[type-arg]
    """``0.75`` or a list to choose from, ``1,0.75,0.5``."""

    name = "m[,m...]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Parse the text."""
        if isinstance(value, tuple):
            return value
        try:
            found = tuple(float(part) for part in value.split(","))
        except ValueError:
            found = ()
        if not found or not all(math.isfinite(one) and 0 < one <= 4 for one in found):
            self.fail(f"'{value}' must be one number or several, over 0 and up to 4, as 0.75 or 1,0.75,0.5", param, ctx)
        return found


class ObjectiveText(click.ParamType):  # type: ignore[type-arg]
    """What is minimised, checked here and handed on as it was written."""

    name = "objective"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the text."""
        from graphopt.errors import ConfigError
        from graphopt.search.goal import parse_objective

        try:
            parse_objective(value)
        except ConfigError as error:
            self.fail(str(error), param, ctx)
        return str(value)


class ImageSizes(click.ParamType):  # type: ignore[type-arg]
    """``320,256x192`` (square, or height x width), or the same for one input, ``NAME:320,256``."""

    name = "[name:]size[,size...]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, tuple[tuple[int, int], ...]]:
        """Parse the text. The name may hold colons: the last one counts."""
        if isinstance(value, tuple):
            return value
        name, _, sizes = value.rpartition(":")
        found = [_SIZE.fullmatch(size) for size in sizes.split(",")]
        sides = tuple((int(one[1]), int(one[2] or one[1])) for one in found if one is not None)
        if len(sides) != len(found) or any(not 1 <= side <= MAX_SIDE for size in sides for side in size):
            self.fail(
                f"'{value}' are no image sizes; write 320,256,224 or, height x width, 320x256, of pixels from 1 to "
                f"{MAX_SIDE}, and NAME: in front where there are several image inputs", param, ctx,
            )  # fmt: skip
        return name, sides


class PositiveNumber(click.ParamType):  # type: ignore[type-arg]
    """A finite number over 0 (`FloatRange` lets ``nan`` pass, which no comparison ever bounds)."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse the text; a number stays."""
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and number > 0):
            self.fail(f"'{value}' must be a number over 0", param, ctx)
        return number


def notes(*, example: str, codes: str = "", keys: str = "") -> str:
    """The end of a command's help: exit codes, the keys of `--json`, an example that can be pasted."""
    parts = [f"Exit codes: {codes}."] if codes else []
    parts += [f"JSON keys: {keys}."] if keys else []
    return "\n\n".join([*parts, f"\b\nExample:  {example}"])


def stacked(*decorators: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """One decorator that adds several options, first one first in the help."""

    def decorate(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


model_argument = click.argument("model", type=click.Path(), metavar="MODEL")
target_option = click.option(
    "-t", "--target", metavar="T", help="Bundled target or path of a target file (see `graphopt targets list`)."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
debug_option = click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
answer_options = stacked(json_option, debug_option)
force_option = click.option("-f", "--force", is_flag=True, help="Replace files that exist.")
shape_option = click.option(
    "--input-shape", "input_shapes", type=InputShape(), multiple=True, metavar="NAME:DIMS",
    help="Concrete shape of a dynamic input, as x:1,3,224,224; or auto: likely sizes for what is still open (a batch "
    "of 1, colour images of 640x640, else 64 or 128), which a note names. Repeatable.",
)  # fmt: skip
resolutions_option = click.option(
    "--resolutions", type=ImageSizes(), multiple=True, metavar="[NAME:]N|HxW[,...]",
    help="Image sizes to choose from, in pixels, as 320,256,224x192 (needs --allow retrain). Of several, the largest "
    "that keeps the --max-... bounds on costs is taken (without one the objective decides). NAME: where image inputs "
    "differ; repeatable, the first sizes of all go together [default: the model's own].",
)  # fmt: skip
seed_option = click.option("--seed", type=int, default=0, show_default=True, help="Of the search and made-up inputs.")
data_options = stacked(
    click.option(
        "--calibration", type=click.Path(), metavar="PATH",
        help="Real inputs without labels: .npz or .npy by input name, first axis over samples, or a folder of images. "
        "Lossy changes are repaired on them, drift is measured on those held out, exact changes are proved on them.",
    ),
    click.option(
        "--preprocess", metavar="NAME|FILE.toml",
        help="How images become inputs: a preset or your own file (wrong names list the presets).",
    ),
    click.option(
        "--repair/--no-repair", default=True,
        help="Fit the weights of lossy changes to the calibration data [default: repair].",
    ),
    click.option(
        "--repair-steps", type=click.IntRange(min=0), default=0, metavar="N",
        help="Refine the repaired weights by N gradient steps for each block, still without labels (needs "
        "graphopt[train]) [default: 0].",
    ),
    click.option(
        "--importance", type=click.Choice(["auto", "l2", "energy", "column-subset"]),
        help="What chooses the channels that stay where a group shrinks: their weights (l2), or what they do on the "
        "calibration data [default: the plan's, or auto: column-subset where weights are repaired, else l2].",
    ),
    click.option(
        "--memory-limit", "memory_limit_bytes", type=Amount(), metavar="SIZE",
        help="Bound for what grows with the calibration samples, as 512MiB [default: 3GiB].",
    ),
    click.option(
        "--evaluate", metavar="DATA.npz|MODULE:FUNCTION",
        help="Accuracy before and after: inputs with 'label', or a function of yours, called with a function that "
        "runs the model. The module is imported, and its code runs.",
    ),
)  # fmt: skip
drift_options = stacked(
    click.option(
        "--max-drift", type=PositiveNumber(), metavar="D",
        help="Upper bound for the drift of the outputs (KL in nats for class scores, else relative L2); needs "
        "--calibration.",
    ),
    click.option(
        "--cache", type=click.Path(), metavar="DIR",
        help="Where measured drifts are kept for the next run [default: the user's cache folder].",
    ),
)  # fmt: skip
report_option = click.option(
    "--report",
    type=click.Path(),
    metavar="FILE",
    help="Write a report to look at: FILE.html a whole page, FILE.svg its picture alone.",
)


def allow_option(default: str | None, what: str = "that may be made") -> Callable[[Command], Command]:
    """``--allow``; without a default the calibration data decides."""
    shown = default or "exact; repaired with --calibration"
    return click.option(
        "--allow", type=click.Choice(["exact", "repaired", "retrain"]), default=default,
        help=f"The least safe kind of change {what} [default: {shown}].",
    )  # fmt: skip


verify_option = click.option(
    "--verify/--no-verify", default=True, help="Run both models against each other [default: verify]."
)
delivery_options = stacked(verify_option, report_option, answer_options)
pack_option = click.option(
    "--pack", "packs", multiple=True, metavar="P", help="Pack of rules [default: default]. Repeatable."
)
rule_dir_option = click.option(
    "--rule-dir", "rule_dirs", multiple=True, type=click.Path(), metavar="DIR",
    help="Folder with your own cards and packs. Repeatable.",
)  # fmt: skip
protect_option = click.option(
    "--protect", multiple=True, metavar="GLOB", help="Ops or tensors that stay as they are. Repeatable."
)
rule_options = stacked(
    pack_option,
    click.option("--rule", "rules", multiple=True, metavar="ID", help="Add a rule (or glob). Repeatable."),
    click.option("--no-rule", "no_rules", multiple=True, metavar="ID", help="Leave a rule out. Repeatable."),
    rule_dir_option,
    protect_option,
    click.option(
        "--depth-multiplier", "depth_multipliers", type=Multipliers(), metavar="M[,M...]",
        help="Scale the channels of the whole model. Of several, the largest that keeps the --max-... bounds is taken "
        "(without a bound the objective decides).",
    ),
)  # fmt: skip

search_options = stacked(
    click.option(
        "--objective", type=ObjectiveText(), default="latency", show_default=True, metavar="WHAT",
        help="What is minimised: latency, peak-memory, parameters, memory (parameters and peak activations), macs, "
        "energy or drift; a weighted sum of these, each relative to the original's, as latency=1,parameters=0.2; or "
        "one and then, giving up some percent of it (1 where none is said), another, as latency+2%>parameters. With "
        "drift (needs --calibration) every curated width is on offer.",
    ),
    click.option(
        "--max-latency-us", type=Bound(PositiveNumber()), metavar="US",
        help="Upper bound, in microseconds; or, as with every bound on costs, a share of the original's: 47%.",
    ),
    click.option("--max-peak-bytes", type=Bound(Amount()), metavar="N", help="Upper bound, as 256KB, 1.5MiB or 50%."),
    click.option("--max-parameter-bytes", type=Bound(Amount()), metavar="N", help="Upper bound, as 1MB or 50%."),
    click.option(
        "--max-memory-bytes", type=Bound(Amount()), metavar="N",
        help="Upper bound for parameters and peak activations together, as 512KB or 50%.",
    ),
    click.option("--max-macs", type=Bound(Amount()), metavar="N", help="Upper bound, as 300M or 60%."),
    click.option(
        "--max-energy-uj", type=Bound(PositiveNumber()), metavar="UJ",
        help="Upper bound, in microjoules or as 60%, on a target that says what a MAC and a byte take.",
    ),
    click.option(
        "--max-evaluations", type=click.IntRange(min=1), metavar="N",
        help="Stop each search after N priced candidates [default: 200000].",
    ),
    click.option(
        "--max-seconds", type=PositiveNumber(), metavar="S",
        help="Stop searching after S seconds, all searches of a model together; the result then depends on how fast "
        "the machine is [default: no bound].",
    ),
    click.option(
        "--search", type=click.Choice(["local", "exact", "evolve", "greedy"]), default="local", show_default=True,
        help="How to search: moves with restarts, the optimum with its proof (where constraints leave a gap, how large "
        "it is), evolution of the front between latency, peak memory and parameters, or the best single change again "
        "and again.",
    ),
    click.option(
        "--op-order", type=click.Choice(["file", "memory"]),
        help="How ops of the result stand: as in the file, or in the order that needs the least peak memory [default: "
        "memory where memory is minimised or bound, else file].",
    ),
    click.option("--certify", is_flag=True, help="Say how far from the optimum the plan is at most."),
)  # fmt: skip
job_options = stacked(
    target_option,
    allow_option(None),
    rule_options,
    resolutions_option,
    search_options,
    drift_options,
    seed_option,
    shape_option,
    data_options,
)
"""All that says how a model is optimised."""


def make_options(values: Mapping[str, Any]) -> Options:
    """Turn parsed values (those of the options above, by name; any may be missing) into `Options`."""
    from graphopt.results import Options
    from graphopt.search.objective import FIELDS, Constraints

    if values.get("preprocess") is not None and values.get("calibration") is None:
        raise click.UsageError("--preprocess is for a folder of images: add --calibration FOLDER")
    bounds = {quantity: values.get(f"max_{name}") for quantity, name in FIELDS.items() if quantity != "drift"}
    shares = {quantity: float(bound) for quantity, bound in bounds.items() if isinstance(bound, Share)}
    amounts = {FIELDS[quantity]: bound for quantity, bound in bounds.items() if quantity not in shares}
    given: dict[str, Any] = {"constraints": Constraints(**amounts), "shares": shares}
    for name in (
        "target", "allow", "packs", "rules", "no_rules", "rule_dirs", "protect", "depth_multipliers", "objective",
        "seed", "max_evaluations", "calibration", "preprocess", "repair", "memory_limit_bytes", "evaluate", "max_drift",
        "cache", "verify", "importance", "repair_steps", "search", "certify", "op_order", "fit_memory",
        "max_seconds", "resume",
    ):  # fmt: skip
        if values.get(name) not in (None, ()):
            given[name] = values[name]
    return Options(
        input_shapes=dict(values.get("input_shapes") or ()), resolutions=dict(values.get("resolutions") or ()), **given
    )
