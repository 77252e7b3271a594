"""Token authentication, which Ray's clients use only when they are told to."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def use_token() -> None:
    """Have Ray send the cluster's token where this machine has one, as if ``RAY_AUTH_MODE=token`` were set.

    Ray 2.60 starts clusters with token authentication on, yet a client that is given an address sends the token only in
    that mode (``ray/_private/worker.py``, "Only a local cluster found automatically auto-enables auth"). It must be
    set before ``ray`` is imported: set later, it would reach the processes that Ray starts, but not this one, and the
    two would not talk. A mode that the user has set stays.
    """
    if "ray" in sys.modules:
        return
    default = Path.home() / ".ray" / "auth_token"
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH") or default.is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
