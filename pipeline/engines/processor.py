"""What the processor of this machine can do."""

from __future__ import annotations

from functools import cache
from pathlib import Path

_X86 = ("avx512bw", "avx_ne_convert")
"""oneDNN multiplies ``bfloat16`` matrices with either of these."""


@cache
def has_fast_bfloat16(cpuinfo: str = "/proc/cpuinfo") -> bool:
    """Whether ``bfloat16`` is no slower than ``float32``; ``True`` where that is not known.

    On x86 with neither AVX-512 nor AVX-NE-CONVERT oneDNN refuses it, and PyTorch's own loops made 1.2 GFLOP/s instead
    of 62 (one core with AVX2).

    Args:
        cpuinfo: where Linux describes the processor.
    """
    try:
        lines = Path(cpuinfo).read_text().splitlines()
    except OSError:
        return True
    flags = next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), None)
    return flags is None or any(flag in flags for flag in _X86)
