"""Input size as a knob of the whole model: one priced space for each size, and a choice between their answers.

A table is priced for one shape, so sizes are not options of a table. Under a bound on costs the largest size that can
keep it is taken, as with several depth multipliers: size is capacity. Without one the objective decides.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from graphopt.draft import Draft, Job
from graphopt.errors import ConfigError, PlanError
from graphopt.plan import Plan
from graphopt.prepare import Subject, at_resolution, check_resolutions
from graphopt.resolution.sizes import image_inputs, input_shapes_at, show_size
from graphopt.resolution.state import SizeMisfit
from graphopt.results import Options
from graphopt.search.goal import parse_objective


@contextmanager
def sized_subjects(subject: Subject, options: Options) -> Iterator[Iterator[Subject]]:
    """The subject at each size that was asked for, largest first, each opened when it is its turn; itself where none
    was. Their files are gone at the end.

    Raises:
        ConfigError: when another size is not allowed, or the model cannot have one of those asked for (all are looked
            at before the first is opened).
    """
    check_resolutions(options)
    with tempfile.TemporaryDirectory(prefix="graphopt-") as name:
        if not options.resolutions:
            yield iter((subject,))
            return
        found = []
        for number, shapes in enumerate(input_shapes_at(subject.original, options.resolutions)):
            folder = Path(name) / str(number)
            folder.mkdir()
            try:
                found.append(at_resolution(subject, shapes, folder))
            except SizeMisfit as error:
                raise ConfigError(f"--resolutions {error}") from error
        yield iter(found)


@contextmanager
def planned_subject(subject: Subject, plan: Plan) -> Iterator[Subject]:
    """The subject at the size that the plan asks for. Its file is gone at the end.

    Raises:
        PlanError: when the plan names no image input, or a size that the model cannot have.
    """
    images = {image.name: image for image in image_inputs(subject.original)}
    unknown = sorted(name for name, _ in plan.resolution if name not in images)
    if unknown:
        raise PlanError(f"knobs.resolution.{unknown[0]}: the model has no image input of that name")
    shapes = {name: images[name].shape_at(size) for name, size in plan.resolution}
    with tempfile.TemporaryDirectory(prefix="graphopt-") as name:
        try:
            found = at_resolution(subject, shapes, Path(name))
        except SizeMisfit as error:
            raise PlanError(f"knobs.resolution: {error}") from error
        yield found


def drifts_alone(job: Job) -> str:
    """Why no plan at this size can keep the bound on drift, ``""`` where one may: the untouched model breaks it."""
    options = job.options
    if options.max_drift is None or job.teacher is None or not job.teacher.can_compare:
        return ""
    drift = Draft(job, job.table.default()).drift
    if drift is None or drift.value <= options.max_drift:
        return ""
    sizes = ", ".join(show_size(size) for _, size in job.subject.sizes)
    return f"at {sizes} the drift is {drift.value:.3g} before any other change, over --max-drift {options.max_drift:g}"


def merit(draft: Draft, options: Options) -> float:
    """What the objective's first level says of a draft, relative to the original at its own size; less is better."""
    before, after = draft.job.subject.source.before, draft.after
    total = 0.0
    for quantity, weight in parse_objective(options.objective).levels[0].weights:
        if quantity == "drift":
            total += weight * (0.0 if draft.drift is None else draft.drift.value)
        else:
            total += weight * after.amounts[quantity] / (before.amounts[quantity] or 1.0)
    return total
