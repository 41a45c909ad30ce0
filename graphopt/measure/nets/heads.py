"""What nets end in: a classifier, a detector's maps, a decoder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.measure.nets.blocks import round_width
from graphopt.measure.nets.builder import NetBuilder


def classifier(
    b: NetBuilder, x: str, classes: int, *, features: int = 0, act: str = "", late: bool = False, softmax: bool = False
) -> str:
    """Global mean and a fully connected layer.

    Args:
        b: the net.
        x: last map.
        classes: number of outputs.
        features: width of a 1x1 convolution before the mean (of a fully connected layer behind it when ``late``), 0 for
            none.
        act: its activation.
        late: whether the features come behind the mean (MobileNetV3).
        softmax: whether class scores are normalised.
    """
    if features and not late:
        x = b.conv(x, features, act=act)
    x = b.global_pool(x)
    if features and late:
        x = b.conv(x, features, act=act)
    x = b.fc(x, classes)
    return b.softmax(x) if softmax else x


def detector(b: NetBuilder, maps: Sequence[str], anchors: int, *, kernel: int = 3, joined: bool = False) -> None:
    """Two convolutions on each map, boxes and scores (SSD); ``joined`` puts the rows of all maps together."""
    found = [(b.conv(x, 4 * anchors, kernel), b.conv(x, 2 * anchors, kernel, act="sigmoid")) for x in maps]
    if joined:
        for columns, parts in zip((4, 2), zip(*found, strict=True), strict=True):
            b.join_rows([b.rows(part, columns) for part in parts])


def decoder(b: NetBuilder, ends: Sequence[str], channels: int, outputs: int, *, how: str, merge: str, act: str) -> str:
    """Back up through the maps, last first, each merged with the one of its size.

    Args:
        b: the net.
        ends: maps, each half as large as the one before.
        channels: width of the decoder.
        outputs: channels of the result.
        how: ``nearest``, ``linear`` or ``transposed``.
        merge: ``concat`` or ``add``.
        act: activation of the decoder's convolutions.
    """
    x = b.conv(ends[-1], channels, act=act)
    for skip in reversed(ends[:-1]):
        larger = b.transposed(x, channels, act=act) if how == "transposed" else b.resize(x, 2, mode=how)
        if b.shapes[larger][1:] != b.shapes[skip][1:]:
            break
        lateral = b.conv(skip, channels, act=act) if merge == "add" else skip
        x = b.add(larger, lateral) if merge == "add" else b.concat([larger, lateral])
        x = b.conv(x, channels, 3, act=act)
    return b.conv(x, outputs, act="sigmoid")


def random_head(
    rng: np.random.Generator, b: NetBuilder, ends: Sequence[str], act: str, step: int, *, affordable: int
) -> None:
    """A head of any kind whose weights are not many more than ``affordable``."""
    x = ends[-1]
    channels = b.shapes[x][0]
    kind = rng.random()
    if kind < 0.6 or len(ends) < 2:
        most = max(int(affordable / (2 * channels)), 8)
        wide = rng.random() < 0.6
        features = round_width(min(float(rng.uniform(1, 4)) * channels, most, 1280), step) if wide else 0
        classes = int(min(rng.choice([2, 10, 100, 1000, int(rng.integers(2, 400))]), max(most // 2, 2)))
        late = bool(rng.random() < 0.25)
        classifier(b, x, classes, features=features, act=act, late=late, softmax=bool(rng.random() < 0.3))
    elif kind < 0.78:
        detector(b, ends[-2:], int(rng.integers(1, 7)), kernel=int(rng.choice([1, 3])), joined=bool(rng.random() < 0.5))
    else:
        decoder(
            b,
            ends[-4:],
            round_width(float(rng.uniform(8, 64)), step),
            int(rng.choice([1, 2, 21])),
            how=str(rng.choice(["nearest", "linear", "transposed"], p=[0.65, 0.2, 0.15])),
            merge=str(rng.choice(["concat", "add"])),
            act=act,
        )
