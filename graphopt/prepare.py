"""From a file and options to a priced space: the part that scan, optimize and apply share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from graphopt.catalog.rules import Catalog, Rule, load_catalog
from graphopt.cost.estimate import Estimate, estimate
from graphopt.cost.kernels import Kernel, decompose
from graphopt.cost.schedule import Schedule, schedule
from graphopt.errors import ConfigError, ModelError, did_you_mean
from graphopt.ir.channels import channel_groups
from graphopt.ir.graph import Graph
from graphopt.onnx_io.load import load
from graphopt.onnx_io.normalise import normalise
from graphopt.onnx_io.shapes import require_static_shapes
from graphopt.resolution.model import Resolution, at_size
from graphopt.resolution.sizes import Shapes, Side, image_inputs
from graphopt.results import Options
from graphopt.search.goal import parse_objective
from graphopt.space.space import Space, build_space
from graphopt.targets.target import Target, load_target
from graphopt.train import check_torch

_WILD = frozenset("*?[")


@dataclass(frozen=True)
class Subject:
    """A model as the jobs look at it: normalised where that was possible, with static shapes, priced as it is.

    Attributes:
        path: the file.
        digest: ``sha256:...`` of the file.
        original: the model as it was loaded.
        graph: the model that decisions are about.
        normalised: whether ``graph`` was normalised.
        target: the chip.
        kernels: how the chip decomposes ``graph``.
        before: its estimate.
        notes: sentences for the reader.
        order: what became of the order of ``graph``'s ops; ``None``: it is the file's.
        own: the same model at its own size, where this is another one; ``path`` is then a file made for the job, and
            ``before`` its estimate.
        resolution: what the other size changed.
    """

    path: Path
    digest: str
    original: Graph
    graph: Graph
    normalised: bool
    target: Target
    kernels: tuple[Kernel, ...]
    before: Estimate
    notes: tuple[str, ...]
    order: Schedule | None = None
    own: Subject | None = None
    resolution: Resolution | None = None

    @property
    def source(self) -> Subject:
        """The model as the user named it."""
        return self.own or self

    @property
    def key(self) -> str:
        """The digest, and the size where it is not the model's own."""
        return f"{self.digest}{self.sizes or ''}"

    @property
    def input_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shapes that it is priced with."""
        shapes: Mapping[str, tuple[int, ...]] = self.original.model.input_shapes
        return shapes

    @property
    def sizes(self) -> tuple[tuple[str, Side], ...]:
        """Height and width of the images that are not of the model's own size, by input name."""
        changed = {change.name for change in self.resolution.inputs} if self.resolution else set()
        return tuple((image.name, image.size) for image in image_inputs(self.original) if image.name in changed)


def nothing_to_reshape(graph: Graph) -> str:
    """Why no rule could ever act on this model, ``""`` when one might."""
    if any(op.op_type in ("Conv", "ConvTranspose") and not op.domain for op in graph.ops()):
        return ""
    types = {op.op_type for op in graph.ops()}
    quantised = " and ".join(sorted(types & {"ConvInteger", "QLinearConv"}))
    outer = " and ".join(sorted(types & {"If", "Loop", "Scan"}))
    but = f" but quantised ones ({quantised})" if quantised else f" outside of {outer}" if outer else ""
    return f"the model has no convolution{but}: there is nothing that the rules could reshape"


def open_subject(
    path: str | Path,
    target: str | Target,
    *,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    original: Graph | None = None,
) -> Subject:
    """Normalise and price a model, which is loaded where it is not given as ``original``.

    Raises:
        ModelError: when it cannot be loaded, or its shapes are not static (the message says what to type).
        ConfigError: when there is no such target.
    """
    chip = target if isinstance(target, Target) else load_target(target)
    try:
        original = original or load(path, input_shapes=input_shapes)
        require_static_shapes(original)
    except ModelError as error:
        raise error if str(path) in str(error) else ModelError(f"{path}: {error}") from error
    done = normalise(original)
    graph = done.graph
    notes = []
    if done.reason:
        notes.append(f"not normalised: {done.reason}")
    assumed = sorted(set(original.model.input_shapes) - set(input_shapes or {}))
    for name in assumed:
        shape = original.model.input_shapes[name]
        if any(value != dim for value, dim in zip(shape, _declared(original, name), strict=True)):
            notes.append(f"priced with input {name!r} of shape {','.join(map(str, shape))}")
    kernels = decompose(graph, chip)
    before = estimate(graph, chip)
    digest = f"sha256:{original.model.digest}"
    return Subject(Path(path), digest, original, graph, not done.reason, chip, kernels, before, tuple(notes))


def in_order(subject: Subject) -> Subject:
    """Return the subject with its ops in the order that needs the least memory; ``before`` stays the file's."""
    order = schedule(subject.graph, subject.target)
    return replace(subject, graph=order.graph, kernels=decompose(order.graph, subject.target), order=order)


def at_resolution(subject: Subject, shapes: Shapes, folder: Path) -> Subject:
    """The subject with inputs of other sizes: ``folder`` holds its file, and must outlive it.

    Raises:
        SizeMisfit: when the model cannot have that size.
    """
    if all(subject.original.static_shape(name) == shape for name, shape in shapes.items()):
        return subject
    sized = at_size(subject.original, shapes, folder)
    found = open_subject(sized.path, subject.target, input_shapes=sized.input_shapes, original=sized.graph)
    notes = (*found.notes, *sized.notes)
    return replace(found, digest=subject.digest, own=subject, resolution=sized.resolution, notes=notes)


def check_resolutions(options: Options) -> None:
    """Raise :class:`ConfigError` where another input size is asked for and not allowed."""
    if options.resolutions and options.allowed != "retrain":
        raise ConfigError("--resolutions shows the model other images than it was trained on: add --allow retrain")


def find_catalog(options: Options) -> Catalog:
    """The cards and packs that the options can name. Raises :class:`ConfigError` as `load_catalog`."""
    return load_catalog([Path(folder) for folder in options.rule_dirs])


def check_repair_steps(options: Options) -> None:
    """Raise :class:`ConfigError` where gradient steps are asked for and cannot be made."""
    if not options.repair_steps:
        return
    if options.calibration is None:
        raise ConfigError("--repair-steps trains on real inputs: add --calibration PATH")
    if not options.repair:
        raise ConfigError("--repair-steps starts from repaired weights: leave --no-repair out")
    check_torch("--repair-steps")


def check_energy(options: Options, target: Target) -> None:
    """Raise :class:`ConfigError` where energy counts, and the target does not say what anything takes."""
    counted = parse_objective(options.objective).quantities | options.constraints.bounds.keys() | options.shares.keys()
    if "energy" in counted and not target.tells_energy:
        keys = "energy_pj_per_mac and energy_pj_per_dram_byte"
        raise ConfigError(f"energy: target {target.name!r} does not say what work takes: add {keys} to a target file")


def find_rules(catalog: Catalog, target: Target, options: Options) -> tuple[Rule, ...]:
    """The rules in force.

    Raises:
        ConfigError: when a rule, pack or parameter is unknown, or a depth multiplier was asked for and is not allowed.
    """
    params: dict[str, dict[str, object]] = {}
    if options.depth_multipliers:
        params["scale-depth"] = {"multipliers": options.depth_multipliers}
    if options.max_drift is not None and options.calibration is None:
        raise ConfigError("--max-drift measures on real inputs: add --calibration PATH")
    least_drift = options.weighs_drift and not options.depth_multipliers
    if options.max_drift is not None or options.curate_widths or least_drift:
        params["curate-widths"] = {"enabled": True}
    rules = catalog.rules_in_force(target.properties, options.packs, options.rules, options.no_rules, params)
    if options.depth_multipliers:
        scaling = [rule for rule in rules if rule.id == "scale-depth"]
        if not scaling:
            raise ConfigError("--depth-multiplier needs the rule scale-depth: add --rule scale-depth")
        if min(options.depth_multipliers) < 1.0 and options.allowed != "retrain":
            raise ConfigError("--depth-multiplier below 1 removes channels: add --allow retrain")
    return rules


def open_space(subject: Subject, rules: tuple[Rule, ...], catalog: Catalog, options: Options) -> Space:
    """Every decision on offer for the subject.

    Raises:
        ConfigError: as `check_protect`.
    """
    check_protect(subject.graph, options)
    channels = channel_groups(subject.graph)
    protect = (*options.protect, *catalog.protected(options.packs))
    return build_space(
        subject.graph,
        channels,
        subject.kernels,
        rules,
        allow=options.allowed,
        protect=tuple(dict.fromkeys(protect)),
        left_to_cpu=subject.target.left_to_cpu,
    )


def check_protect(graph: Graph, options: Options) -> None:
    """Raise :class:`ConfigError` when a name to protect (one without wildcards) is neither an op's nor a tensor's."""
    known = {name for op in graph.ops() for name in (op.name, *op.inputs, *op.outputs)}
    for name in options.protect:
        if not _WILD & set(name) and name not in known:
            raise ConfigError(f"--protect: no op or tensor {name!r}{did_you_mean(name, known)}")


def _declared(graph: Graph, name: str) -> tuple[object, ...]:
    for value in graph.model.proto.graph.input:
        if value.name == name:
            return tuple(
                dim.dim_value if dim.HasField("dim_value") else dim.dim_param
                for dim in value.type.tensor_type.shape.dim
            )
    return ()
