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

    def __init__(self, wanted: str, base_url: str | None, thinks: bool) -> None:
        first = by_address(base_url) if wanted == "auto" else wanted
        if thinks and wanted == "auto" and first == "choice":
            first = "none"
        self._left = list(STRUCTURED[STRUCTURED.index(first) :])
        self._known = False
        self._lock = asyncio.Lock()

    async def fields(self, choice: Sequence[str], takes: Callable[[dict[str, Any]], Awaitable[bool]]) -> dict[str, Any]:
        """The fields of a request whose answer is one of ``choice``.

        Args:
            takes: asks the endpoint whether it takes some fields.
        """
        async with self._lock:
            while not self._known:
                self._known = self._left[0] == "none" or await takes(structured_fields(self._left[0], ("A", "B")))
                if not self._known:
                    refused = self._left.pop(0)
                    logger.warning(
                        "structured_output: the endpoint refuses %s, trying %s; set structured_output to spare the try",
                        refused,
                        self._left[0],
                    )
        return structured_fields(self._left[0], choice)


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
    if mode == "choice":
        return {"structured_outputs": {"choice": list(choice)}}
    if mode == "none":
        return {}
    values = {_KEY: {"type": "string", "enum": list(choice)}}
    schema = {"type": "object", "properties": values, "required": [_KEY], "additionalProperties": False}
    held = {"name": _KEY, "schema": schema, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": held}}


def chosen(text: str) -> str:
    """What was chosen, out of an answer in that schema; any other text stays as it is."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text
    value = found.get(_KEY) if isinstance(found, dict) else None
    return value if isinstance(value, str) else text
