"""Turn pydantic's validation errors into problems: the setting, what is wrong with its value, and the remedy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from backend.errors import Problem, marked
from backend.utils.config_utils import closest, dotted_names, field_schema


def problems_of(error: ValidationError, schema: Mapping[str, Any]) -> list[Problem]:
    """Return one Problem per setting, in pydantic's order; ``schema`` is the JSON schema of all settings.

    The branches of a union, which pydantic reports one by one, are folded into one Problem.
    """
    problems: dict[str, Problem] = {}
    settings = dotted_names(schema)
    for detail in error.errors(include_url=False):
        parts = [part for part in detail["loc"] if part not in {"str", "float", "list[str]", "[key]"}]
        inside = ".".join(part for part in parts if isinstance(part, str))
        name = next((setting for setting in settings if inside.startswith(f"{setting}.")), inside)
        if name not in problems:
            problems[name] = _problem(name or "config", detail, schema, key=inside[len(name) + 1 :])
    return list(problems.values())


def _known(name: str, settings: Sequence[str]) -> str:
    """The settings beside one that there is not, or the sections where there is no such section."""
    section = f"{name.rpartition('.')[0]}."
    beside = [setting.removeprefix(section) for setting in settings if setting.startswith(section)]
    if beside:
        return f"{section[:-1]} has {', '.join(beside)}."
    sections = dict.fromkeys(setting.partition(".")[0] for setting in settings if "." in setting)
    return f"The sections are {', '.join(sections)}."


def _problem(name: str, detail: Any, schema: Mapping[str, Any], *, key: str) -> Problem:
    kind, value = detail["type"], detail.get("input")
    if kind == "extra_forbidden":
        near = closest(name, dotted_names(schema))
        remedy = f"Did you mean {near}?" if near else _known(name, dotted_names(schema))
        return Problem(name, "there is no such setting.", remedy)
    if kind == "missing":
        return Problem(name, "is required.", f"Set it, for example {marked(name, 'rows.jsonl')}.")
    if name == "version":
        remedy = "Use the version of Tunesmith that wrote it, or a newer one."
        return Problem(name, f"{_shown(value)} is a format that this version does not read.", remedy)
    if kind == "literal_error":
        return Problem(name, f"{_shown(value)} is not possible.", f"Choose {detail['ctx']['expected']}.")
    if kind == "model_type" or any(known.startswith(f"{name}.") for known in dotted_names(schema)):
        return Problem(name, f"{_shown(value)} is not a section of settings.", "Write its settings below it.")
    message = str(detail["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    field = field_schema(name, schema)
    default = f" The default is {field['default']}." if field.get("default") not in (None, "") else ""
    remedy = f"{field.get('description', 'Change this value.')}{default}"
    place = f" for {key}" if key else ""
    return Problem(name, f"{_shown(value)}{place} does not fit: {message}.", remedy)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
