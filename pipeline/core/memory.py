"""Memory that this process has freed, given back to the machine."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress


def give_back() -> None:
    """Return freed memory to the operating system; call it after something that allocated much for a short while.

    glibc keeps freed heap below whatever lies on top of it, and Arrow's pool keeps pages for later: after 300,000
    prompts had been read, a driver that lives for days held 50 MiB of it.
    """
    import pyarrow as pa

    pa.default_memory_pool().release_unused()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library, such as musl, has no such function
            ctypes.CDLL("libc.so.6").malloc_trim(0)
