"""Array types that the statistics share."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def nullable(values: Any) -> pa.Array:
    """Arrow doubles in which NaN (a number that does not exist) has become null."""
    array = np.asarray(values, dtype=np.float64)
    return pa.array(array, mask=np.isnan(array))
