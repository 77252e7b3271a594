"""Fixtures of this room."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["here", pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.slow])])
def anywhere(request: pytest.FixtureRequest) -> None:
    """The same without Ray and, slow, on it."""
    request.getfixturevalue("ray_cluster" if request.param == "ray" else "no_ray")
