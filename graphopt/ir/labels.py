"""Channel labels and the disjoint-set that unites them.

A label is an integer; an array of labels, one per position, says which channel sits where on a tensor axis. Uniting is
recorded as pairs of arrays and solved for all labels at once, so that no Python loop ever runs over channels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.intp]
"""Labels along one axis, shape ``(axis length,)``. Treated as immutable: equal axes share one array object."""

Axes = tuple[Labels | None, ...]
"""Labels of every axis of one tensor; ``None`` is an axis that carries no removable channels."""


class LabelSpace:
    """All labels of one walk, with their unions."""

    def __init__(self) -> None:
        self._parent: Labels = np.empty(0, dtype=np.intp)
        self._count = 0
        self._pairs: list[tuple[Labels, Labels]] = []

    def fresh(self, count: int) -> Labels:
        """Return ``count`` new labels, ascending."""
        first = self._count
        self._count += count
        return np.arange(first, self._count, dtype=np.intp)

    def unite(self, left: Labels, right: Labels) -> None:
        """Make ``left[i]`` and ``right[i]`` one channel, for every ``i``. The arrays must have one length."""
        if left is not right:
            self._pairs.append((left, right))

    def roots(self) -> Labels:
        """Return for each label the smallest label it is united with, shape ``(labels,)``."""
        if len(self._parent) < self._count:
            self._parent = np.concatenate([self._parent, np.arange(len(self._parent), self._count, dtype=np.intp)])
        if self._pairs:
            left = np.concatenate([pair[0] for pair in self._pairs])
            right = np.concatenate([pair[1] for pair in self._pairs])
            self._pairs.clear()
            self._parent = _hook(self._parent, left, right)
        return self._parent


def _hook(parent: Labels, left: Labels, right: Labels) -> Labels:
    """Unite by hooking the larger root under the smaller and halving paths, until no pair is apart."""
    while True:
        a, b = parent[left], parent[right]
        apart = a != b
        if not apart.any():
            return parent
        left, right, a, b = left[apart], right[apart], a[apart], b[apart]
        parent[np.maximum(a, b)] = np.minimum(a, b)  # of several hooks for one root the last holds; the next round sees
        while True:
            shorter = parent[parent]
            if np.array_equal(shorter, parent):
                break
            parent = shorter
