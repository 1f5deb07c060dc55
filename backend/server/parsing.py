"""A body as the request it means; the field at fault is named as the client wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, from_json, to_json

from backend.server.errors import ApiError

MAX_DEPTH = 32
_SHOWN = 40
Asked = TypeVar("Asked", bound=BaseModel)


def parse(model: type[Asked], body: bytes) -> Asked:
    """The request in ``body``, an instance of ``model``. Raises ApiError 400 naming the first field at fault."""
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise ApiError(400, f"The body is not JSON: {_sentence(str(error))}", code="bad_json") from error
    if _depth(value) > MAX_DEPTH:
        raise ApiError(400, f"The body is nested deeper than {MAX_DEPTH} levels.", code="too_deep")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise _refused(model, value, error) from error


def _depth(value: object) -> int:
    deepest, stack = 0, [(value, 1)]
    while stack:
        part, depth = stack.pop()
        deepest = max(deepest, depth)
        if isinstance(part, Mapping):
            stack += [(inner, depth + 1) for inner in part.values()]
        elif isinstance(part, list):
            stack += [(inner, depth + 1) for inner in part]
    return deepest


def _refused(model: type[BaseModel], value: object, error: ValidationError) -> ApiError:
    """What the first fault says; of a field of several kinds, that of the kind which came closest."""
    faults = error.errors(include_url=False)
    found = max(faults, key=lambda fault: (len(_place(value, fault)), not fault["type"].endswith("_type")))
    param = ".".join(name[:100] for name in _place(value, found))
    if found["type"] == "extra_forbidden":
        message, code = f"Unsupported field: {param}.", "unsupported_field"
    elif found["type"] == "missing":
        message, code = f"Missing field: {param}.", "missing_field"
    else:
        said = _sentence(_plain(found))
        where = param or ("The body" if found["type"] in _WANTED else "")
        message, code = (f"{where}: {said}" if where else said), "bad_value"
    field = model.model_fields.get(param.partition(".")[0])
    why = f" {field.description}" if field and field.description else ""
    return ApiError(400, message + why, code=code, param=param or None)


_WANTED = {
    "greater_than_equal": "at least {ge}",
    "greater_than": "above {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "below {lt}",
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "a text",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "literal_error": "{expected}",
    "union_tag_invalid": "{expected_tags}",
}
"""What must stand in a field, by pydantic's name of the fault."""
_EMPTY = {"string_too_short", "too_short"}
_MUCH = {"string_too_long": "characters", "too_long": "entries"}


def _plain(fault: ErrorDetails) -> str:
    """What is at fault in the field, in words for whoever wrote the request and knows nothing of pydantic."""
    kind, bounds = fault["type"], fault.get("ctx", {})
    if kind in _EMPTY and not fault["input"]:
        return "It must not be empty"
    if kind in _MUCH:
        return f"It has {len(fault['input'])} {_MUCH[kind]}, and may have at most {bounds['max_length']}"
    if kind not in _WANTED:
        return fault["msg"].removeprefix("Value error, ")
    found = to_json(bounds.get("tag", fault["input"])).decode()
    shown = found if len(found) <= _SHOWN else f"{found[:_SHOWN]}…"
    wanted = _WANTED[kind].format_map(bounds).replace("False", "false")
    return f"It is {shown}, and must be {wanted}"


def _place(value: object, fault: ErrorDetails) -> list[str]:
    """The way to a field, name by name; names of our own classes, which pydantic puts between, are left out."""
    names: list[str] = []
    location = fault["loc"]
    for step, part in enumerate(location):
        missing = fault["type"] == "missing" and step == len(location) - 1
        if isinstance(value, Mapping) and (part in value or missing):
            names.append(str(part))
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            names.append(str(part))
            value = value[part]
    return names


def _sentence(text: str) -> str:
    return f"{text.strip()[:300].rstrip('.')}."
