"""What training frees stays in the process, and goes back to the system at its end."""

from __future__ import annotations

import resource
import sys

import numpy as np
import pytest

from graphopt.train.memory import kept_memory

BYTES = 64 << 20


def page_faults() -> int:
    """Pages that the system hands out while an array is made and dropped."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(BYTES, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone is asked to")
def test_memory_is_fetched_once() -> None:
    with kept_memory():
        page_faults()
        assert page_faults() < 10
    assert page_faults() > 30  # huge pages are among them, of 2 MiB each
