"""How an OpenAI-compatible endpoint is held to one of several labels."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

logger = logging.getLogger(__name__)

STRUCTURED = ("choice", "schema", "none")
"""``structured_outputs`` (vLLM servers), ``response_format`` with an enum, plain text: tried in this order."""

_SCHEMA_HOSTS = ("api.openai.com", "openai.azure.com", "googleapis.com")
_KEY = "choice"


class Structured:
    """Which way one endpoint takes, found out by its first request of this kind.

    Args:
        wanted: ``auto``, or one of :data:`STRUCTURED`.
        base_url: of the endpoint.
        thinks: whether the model is told to think first: vLLM servers without a reasoning parser would not let it.
    """

    def __init__(self, wanted: str, base_url: str | None, thinks: bool = False) -> None:
        self._mode = by_address(base_url) if wanted == "auto" else wanted
        if thinks and (wanted, self._mode) == ("auto", "choice"):
            self._mode = "none"
        self._known = self._mode == "none"
        self._lock = asyncio.Lock()

    async def mode(self, takes: Callable[[dict[str, Any]], Awaitable[bool]]) -> str:
        """The way to take.

        Args:
            takes: asks the endpoint whether it takes some fields.
        """
        if self._known:
            return self._mode
        async with self._lock:
            while not self._known:
                if self._mode == "none" or await takes(structured_fields(self._mode, ("A", "B"))):
                    self._known = True
                    break
                later = STRUCTURED[STRUCTURED.index(self._mode) + 1]
                logger.warning(
                    "structured_output: the endpoint refuses %s, trying %s; set structured_output to spare the try",
                    self._mode,
                    later,
                )
                self._mode = later
        return self._mode


def by_address(base_url: str | None) -> str:
    """The way that most endpoints of an address take; ``null`` is OpenAI's own."""
    host = urlsplit(base_url or "https://api.openai.com").hostname or ""
    if any(host == name or host.endswith(f".{name}") for name in _SCHEMA_HOSTS):
        return "schema"
    try:
        return "choice" if ipaddress.ip_address(host).is_private else "none"
    except ValueError:  # a name
        return "choice" if "." not in host or host.endswith((".local", ".internal")) else "none"


def structured_fields(mode: str, choice: Sequence[str]) -> dict[str, Any]:
    """The request's fields."""
    if mode == "choice":
        return {"structured_outputs": {"choice": list(choice)}}
    if mode == "none":
        return {}
    schema = {
        "type": "object",
        "properties": {_KEY: {"type": "string", "enum": list(choice)}},
        "required": [_KEY],
        "additionalProperties": False,
    }
    return {
        "response_format": {"type": "json_schema", "json_schema": {"name": "choice", "schema": schema, "strict": True}}
    }


def chosen(text: str) -> str:
    """What was chosen, out of an answer in that schema; any other text stays as it is."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text
    value = found.get(_KEY) if isinstance(found, dict) else None
    return value if isinstance(value, str) else text
