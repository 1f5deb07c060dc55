"""Read YAML, dotted overrides and environment variables into one plain nested dict.

YAML is read as version 1.2 reads it, so that no text becomes a date, an octal number or a truth value by surprise.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from backend.errors import ConfigError, Problem

MAX_YAML_BYTES = 1_000_000
MAX_DEPTH = 16
_NULLS = {"null", "Null", "NULL", "~"}


_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SafeDumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
"""The C version where PyYAML was built with libyaml, as its wheels are: ten times as fast."""
_EXPONENT = re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)[eE][-+]?[0-9]+$")
"""A number such as 1e-3, as in YAML 1.2's core schema (10.3.2). PyYAML follows 1.1, which reads it as text."""


_Resolvers: TypeAlias = dict[str, list[tuple[str, re.Pattern[str]]]]
"""PyYAML's table: first character of a plain scalar → (tag, pattern) pairs to try."""


def _with_exponents(known: _Resolvers) -> _Resolvers:
    found = ("tag:yaml.org,2002:float", _EXPONENT)
    return known | {first: [*known.get(first, []), found] for first in "-+.0123456789"}


class _Dumper(_SafeDumper):  # type: ignore[misc]
    """The safe dumper, which also quotes texts that our loader would read as a number."""

    yaml_implicit_resolvers = _with_exponents(yaml.SafeDumper.yaml_implicit_resolvers)


_YAML_1_2 = {
    "tag:yaml.org,2002:bool": re.compile(r"true|True|TRUE|false|False|FALSE"),
    "tag:yaml.org,2002:int": re.compile(r"[-+]?(?:0|[1-9][0-9]*)"),
    "tag:yaml.org,2002:float": re.compile(
        r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
    ),
}
"""Booleans and numbers of YAML 1.2. PyYAML follows 1.1, where 010 is 8, 1:30 is 90 and ``no`` is false."""
_DATES = "tag:yaml.org,2002:timestamp"


def _as_in_yaml_1_2(known: _Resolvers) -> _Resolvers:
    return {
        first: [(tag, _whole(_YAML_1_2.get(tag, pattern))) for tag, pattern in resolvers if tag != _DATES]
        for first, resolvers in known.items()
    }


def _whole(pattern: re.Pattern[str]) -> re.Pattern[str]:
    return re.compile(rf"(?:{pattern.pattern})\Z", pattern.flags)


class _Loader(_SafeLoader):  # type: ignore[misc]
    """The safe loader with YAML 1.2's numbers and booleans; it knows no dates and refuses repeated keys."""

    yaml_implicit_resolvers = _with_exponents(_as_in_yaml_1_2(yaml.SafeLoader.yaml_implicit_resolvers))

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = key_node.value
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.YAMLError(f"line {key_node.start_mark.line + 1}: a key must be a single value")
            if key in seen:
                raise yaml.YAMLError(f"line {key_node.start_mark.line + 1}: {key} is set twice")
            seen.add(key)
            key_node.tag = "tag:yaml.org,2002:str"  # or a key `no` would become False, and `<<` would merge
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return mapping


def parse_yaml(text: str, *, where: str) -> dict[str, Any]:
    """Parse YAML text into a dict; ``where`` names the source in errors.

    Raises ConfigError for anything but one plain mapping: tags, aliases, repeated keys, depth over 16.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_YAML_BYTES:
        raise _bad_yaml(
            where, f"is larger than {MAX_YAML_BYTES} bytes.", "A configuration is a few lines long."
        )
    try:
        _check_events(text)
        value = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise _bad_yaml(where, f"is not valid YAML: {reason[:300]}.", "Mend the line it names.") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _bad_yaml(where, "is not a mapping of settings.", "Write lines such as `seed: 42`.")
    settings: dict[str, Any] = value
    return settings


def to_yaml(value: Mapping[str, Any]) -> str:
    """Return plain nested values as YAML; ``parse_yaml`` reads the same values back, in the same order."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return text


def _check_events(text: str) -> None:
    """Raise YAMLError for aliases, tags and deep nesting, before anything is built from the text.

    A few lines of aliases can expand to gigabytes, and a tag can name a Python type.
    """
    depth = 0
    for event in yaml.parse(text, Loader=_SafeLoader):
        refused = "aliases" if isinstance(event, yaml.events.AliasEvent) else "tags"
        if refused == "aliases" or getattr(event, "tag", None) is not None:
            line = getattr(event.start_mark, "line", 0) + 1
            raise yaml.YAMLError(f"line {line}: {refused} are not allowed")
        if isinstance(event, yaml.events.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise yaml.YAMLError(f"nested deeper than {MAX_DEPTH}")
        elif isinstance(event, yaml.events.CollectionEndEvent):
            depth -= 1


def _bad_yaml(where: str, message: str, remedy: str) -> ConfigError:
    return ConfigError([Problem(where, message, remedy)], code="bad-yaml")


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML file. Raises ConfigError naming the path when it is missing, unreadable or malformed."""
    try:
        if path.is_dir():
            problem = Problem(str(path), "is a folder.", "Give the path of a YAML file.")
            raise ConfigError([problem], code="no-config")
        if not path.is_file():
            near = closest(path.name, _names_beside(path))
            remedy = f"Did you mean {path.parent / near}?" if near else "Give the path of a YAML file."
            raise ConfigError([Problem(str(path), "there is no such file.", remedy)], code="no-config")
        with path.open("rb") as file:
            raw = file.read(MAX_YAML_BYTES + 1)
        return parse_yaml(raw.decode("utf-8-sig"), where=str(path))
    except UnicodeDecodeError as error:
        raise _bad_yaml(str(path), f"is not UTF-8 (byte {error.start}).", "Save it as UTF-8.") from error
    except OSError as error:
        raise ConfigError(
            [Problem(str(path), f"cannot be read: {error.strerror}.", "Check the path and its permissions.")],
            code="no-config",
        ) from error


def _names_beside(path: Path) -> list[str]:
    return sorted(child.name for child in path.parent.iterdir()) if path.parent.is_dir() else []


def parse_value(text: str) -> Any:
    """Read one command-line value as YAML would: numbers, booleans, null and lists; all else stays text."""
    try:
        _check_events(text)
        value = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, ValueError):
        return text
    if isinstance(value, str):  # YAML would cut an unquoted `a #b` at the comment: return the text as typed
        return value if text[:1] in {"'", '"'} else text
    return text if value is None and text not in _NULLS else value


def parse_flags(tokens: Sequence[str]) -> dict[str, Any]:
    """Turn ``--section.key value`` and ``--section.key=value`` tokens into a flat dict of dotted names.

    Raises ConfigError for a token that is not a flag or a flag without a value.
    """
    flags: dict[str, Any] = {}
    rest = list(tokens)
    while rest:
        token = rest.pop(0)
        if not token.startswith("--") or len(token) < 3:
            raise ConfigError(
                [Problem(token, "is not a setting.", "Write --section.key value.")], code="bad-flag"
            )
        name, equals, value = token[2:].partition("=")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise ConfigError([Problem(name, "has no value.", f"Write --{name} VALUE.")], code="bad-flag")
            value = rest.pop(0)
        flags[name.replace("-", "_")] = parse_value(value)
    return flags


def apply_overrides(raw: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of ``raw`` with each dotted override set.

    Raises ConfigError when an override goes through a value that is not a section.
    """
    result: dict[str, Any] = _copied(raw)
    for dotted, value in overrides.items():
        *sections, key = dotted.split(".")
        place = result
        for section in sections:
            inner = place.setdefault(section, {})
            if inner is None:
                inner = place[section] = {}
            if not isinstance(inner, dict):
                raise ConfigError(
                    [
                        Problem(
                            dotted, f"{section} is a single value, not a section.", "Remove one of the two."
                        )
                    ],
                    code="bad-flag",
                )
            place = inner
        place[key] = value
    return result


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copied(part) for key, part in value.items()}
    return value


def environment_overrides(environ: Mapping[str, str], *, prefix: str = "TUNESMITH__") -> dict[str, Any]:
    """Dotted overrides from variables such as ``TUNESMITH__TRAINING__LEARNING_RATE=1e-4``."""
    return {
        name[len(prefix) :].lower().replace("__", "."): parse_value(value)
        for name, value in sorted(environ.items())
        if name.startswith(prefix)
    }


def closest(name: str, known: Iterable[str]) -> str:
    """Return the known name most like ``name``, compared whole, then by last part; "" when none is close."""
    names = list(known)
    whole = difflib.get_close_matches(name, names, n=1, cutoff=0.7)
    if whole:
        return whole[0]
    by_leaf = {full.rpartition(".")[2]: full for full in reversed(names)}
    leaf = difflib.get_close_matches(name.rpartition(".")[2], list(by_leaf), n=1, cutoff=0.7)
    return by_leaf[leaf[0]] if leaf else ""


def dotted_names(schema: Mapping[str, Any]) -> list[str]:
    """Dotted names of every leaf of a JSON schema with ``$defs`` sections, in schema order."""

    def walk(node: Mapping[str, Any], prefix: str) -> list[str]:
        names: list[str] = []
        for key, field in node.get("properties", {}).items():
            section = _section(field, schema)
            names += walk(section, f"{prefix}{key}.") if section else [prefix + key]
        return names

    return walk(schema, "")


def field_schema(dotted: str, schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema of one setting by its dotted name; empty when there is none of that name."""
    node: Mapping[str, Any] | None = schema
    *sections, key = dotted.split(".")
    for section in sections:
        node = _section(node.get("properties", {}).get(section, {}), schema) if node else None
    found: Mapping[str, Any] = node.get("properties", {}).get(key, {}) if node else {}
    return found


def _section(field: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any] | None:
    reference = field.get("$ref", "")
    if not reference:
        return None
    section: Mapping[str, Any] = schema["$defs"][reference.rpartition("/")[2]]
    return section if "properties" in section else None
