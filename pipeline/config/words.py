"""From text to plain data: YAML files and ``key=value`` words, in which words mean what they say.

YAML 1.1, which PyYAML reads, takes the language ``no`` for False, the commit ``0123456`` for a number and ``12:30`` for
750. Here only ``true``, ``false``, ``null`` and numbers are more than text, keys are always text, and a number that
Python would write in another way keeps its text until the setting's own type is known (:class:`Spelled`).
"""

from __future__ import annotations

import functools
import re
from typing import Any, ClassVar

import yaml  # type: ignore[import-untyped]

from pipeline.core.errors import ConfigError, first_line

_PART = re.compile(r"\[([^\]]+)\]|([^.\[\]]+)")
_INFINITE = {".inf": "inf", "+.inf": "inf", "-.inf": "-inf", ".nan": "nan"}


class Spelled(str):
    """The text of a number that Python would write in another way (``1e3``, ``0123456``, ``0.10``)."""

    __slots__ = ()

    @property
    def number(self) -> int | float:
        """The number that the text stands for."""
        return int(self) if re.fullmatch(r"[-+]?\d+", self) else float(_INFINITE.get(self.lower(), self))


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML is not typed
    """YAML's safe loader with the plain scalars of YAML 1.2, keys that are text, and no two of one name."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        names: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be one word", key.start_mark)
            if key.value in names:
                raise yaml.constructor.ConstructorError(None, None, f"found twice: {key.value}", key.start_mark)
            names.add(key.value)
        self.flatten_mapping(node)  # what "<<" brings comes first, so that the map's own values win
        return {key.value: self.construct_object(value, deep=True) for key, value in node.value}

    def construct_number(self, node: Any) -> Any:
        spelled = Spelled(node.value)
        return spelled.number if str(spelled.number) == spelled else spelled


for _tag, _pattern, _first in (
    ("merge", r"<<", ["<"]),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("float", r"[-+]?(\d+|\d+\.\d*|\.\d+)([eE][-+]?\d+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$", re.ASCII), _first)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_number)


def read_yaml(text: str) -> Any:
    """The plain data of a YAML text.

    Raises:
        yaml.YAMLError: it is none, names a key twice, or carries a tag.
    """
    return yaml.load(text, _Loader)


def _plain(text: str) -> Any:
    """The value of one word without brackets and quotes, in which "#", ":" and the like are signs as any other."""
    loader = _Loader("")
    return loader.construct_object(yaml.ScalarNode(loader.resolve(yaml.ScalarNode, text, (True, False)), text))


def read_word(word: str) -> dict[str, Any]:
    """The layer that ``a.b=value`` stands for; a value that begins with no bracket or quote is one text to its end.

    Raises:
        ConfigError: it cannot be read.
    """
    key, _, text = word.partition("=")
    parts = [bracketed or plain for bracketed, plain in _PART.findall(key)]
    if not parts:
        raise ConfigError(f"cannot read {word!r} as key=value")
    try:
        value = read_yaml(text) if text.lstrip()[:1] in ("[", "{", '"', "'") else _plain(text.strip())
    except yaml.YAMLError as error:
        open_ended = text.lstrip()[:1] in "[{" and not text.rstrip().endswith(("]", "}"))
        hint = f"; quote the whole word for the shell: '{key}=...'" if open_ended else ""
        raise ConfigError(f"cannot read {word!r} as key=value: {first_line(error)}{hint}") from error
    return functools.reduce(lambda inner, part: {part: inner}, reversed(parts), value)
