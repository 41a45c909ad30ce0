"""Which inputs are images, which sizes were asked for, and which would work where one does not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphopt.errors import ConfigError, did_you_mean
from graphopt.ir.graph import Graph
from graphopt.resolution.state import SizeMisfit
from graphopt.resolution.walk import resized

Side = tuple[int, int]
"""Height and width."""

Shapes = Mapping[str, tuple[int, ...]]
"""Input shapes by name."""

_STEPS = (64, 32, 16, 8)
"""Near sizes that are tried are multiples of these: strides of usual networks."""
_SHOWN = 4


@dataclass(frozen=True, slots=True)
class ImageInput:
    """An input that is a batch of images: where its height and width are, and what they are."""

    name: str
    shape: tuple[int, ...]
    axes: Side

    @property
    def size(self) -> Side:
        """Height and width at the model's own size."""
        return self.shape[self.axes[0]], self.shape[self.axes[1]]

    def shape_at(self, size: Side) -> tuple[int, ...]:
        """The shape with another height and width."""
        shape = list(self.shape)
        shape[self.axes[0]], shape[self.axes[1]] = size
        return tuple(shape)


def image_inputs(graph: Graph) -> tuple[ImageInput, ...]:
    """The inputs with four dimensions; channels are the smaller of the second and the last."""
    found = []
    for name in graph.inputs:
        shape = graph.static_shape(name)
        if shape is not None and len(shape) == 4:
            found.append(ImageInput(name, shape, (2, 3) if shape[1] <= shape[3] else (1, 2)))
    return tuple(found)


def input_shapes_at(graph: Graph, asked: Mapping[str, Sequence[Side]]) -> tuple[dict[str, tuple[int, ...]], ...]:
    """The input shapes of every choice, largest image first, each once.

    Args:
        graph: the model with static shapes.
        asked: sizes by input name; ``""`` is the image input, or all of them where they are of one size. The first
            sizes of all inputs are one choice, the second ones the next.

    Raises:
        ConfigError: when there is no such input, or the lists differ in length.
    """
    images = {image.name: image for image in image_inputs(graph)}
    if not images:
        raise ConfigError("--resolutions: the model has no input that is an image (four dimensions)")
    lists: dict[str, Sequence[Side]] = {}
    for name, wanted in asked.items():
        if name and name not in images:
            raise ConfigError(f"--resolutions: no image input {name!r}{did_you_mean(name, images)}")
        if not name and len({image.size for image in images.values()}) > 1:
            example = next(iter(images))
            raise ConfigError(
                f"--resolutions: the image inputs {', '.join(images)} are of different sizes: write NAME:SIZES for "
                f"those that change, as {example}:{','.join(map(show_size, wanted))}"
            )
        lists |= dict.fromkeys([name] if name else images, wanted)
    if len({len(wanted) for wanted in lists.values()}) > 1:
        raise ConfigError("--resolutions: every input needs as many sizes as the others; their first ones go together")
    choices = [
        {name: images[name].shape_at(size) for name, size in zip(lists, sizes, strict=True)}
        for sizes in zip(*lists.values(), strict=True)
    ]
    distinct = {tuple(choice.values()): choice for choice in choices}.values()
    return tuple(sorted(distinct, key=lambda choice: -sum(math.prod(shape) for shape in choice.values())))


def show_size(size: Side) -> str:
    """``320`` or ``320x256``."""
    return str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}"


def show_shapes(graph: Graph, shapes: Shapes) -> str:
    """The sizes of ``shapes``, by name where there are several images: ``320x256``."""
    images = [image for image in image_inputs(graph) if image.name in shapes]
    sizes = [(image.name, tuple(shapes[image.name][axis] for axis in image.axes)) for image in images]
    if len(sizes) == 1:
        return show_size(sizes[0][1])  # type: ignore[arg-type]
    return ", ".join(f"{name}:{size[0]}x{size[1]}" for name, size in sizes)


def near_sizes(graph: Graph, shapes: Shapes) -> tuple[str, ...]:
    """Up to four sizes near ``shapes`` that the model can have, nearest first."""
    images = [image for image in image_inputs(graph) if image.name in shapes]
    tried: dict[str, Shapes] = {}
    for step in _STEPS:
        for up in (0, 1, 2, -1):
            near = {
                image.name: image.shape_at(
                    tuple(max(1, shapes[image.name][axis] // step + up) * step for axis in image.axes)  # type: ignore[arg-type]
                )
                for image in images
            }
            if any(near[image.name] != image.shape for image in images):
                tried[show_shapes(graph, near)] = near
    distance = {
        shown: sum(abs(a - b) for name in near for a, b in zip(near[name], shapes[name], strict=True))
        for shown, near in tried.items()
    }
    found: list[str] = []
    for shown in sorted(tried, key=lambda shown: (distance[shown], shown)):
        try:
            resized(graph, tried[shown])
        except SizeMisfit:
            continue
        found.append(shown)
        if len(found) == _SHOWN:
            break
    return tuple(found)
