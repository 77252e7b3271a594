"""Freed memory goes back to the machine."""

from __future__ import annotations

import subprocess
import sys

import pytest

_SCRIPT = """
import psutil
from pipeline.core.tables import give_back
held = [bytes(1000) for _ in range(200_000)]
last = bytes(1000)  # lies on top of the heap, so that glibc keeps what is freed below
del held
before = psutil.Process().memory_info().rss
give_back()
print(before - psutil.Process().memory_info().rss)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="what the allocator keeps is glibc's business")
def test_a_freed_heap_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 50 * 2**20
