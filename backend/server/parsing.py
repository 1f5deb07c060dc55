"""Read a JSON body as a request, and say in plain words which field is at fault where it cannot be read.

``StrictModel`` is the base of every request: it refuses unknown fields and converts nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import ErrorDetails, from_json, to_json
from pydantic_core.core_schema import CoreSchema

from backend.server.errors import ApiError

MAX_DEPTH = 32
_SHOWN_CHARACTERS = 40
Request = TypeVar("Request", bound=BaseModel)


class StrictModel(BaseModel):
    """A model that refuses unknown fields, values of another type, NaN and infinity.

    Null asks for nothing, nor does an empty list or object where one may stand, so such a field is read as if it were
    left out, whatever its name: clients send every field they know, and give back the empty fields of an answer.
    Required fields and those in ``meant_when_empty`` are taken as they are. The JSON schema says so too.
    """

    meant_when_empty: ClassVar[frozenset[str]] = frozenset()

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_empty(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        fields = {field.alias or name: field for name, field in cls.model_fields.items()}
        return {name: part for name, part in value.items() if not cls._is_empty(name, part, fields.get(name))}

    @classmethod
    def _is_empty(cls, name: str, part: object, field: FieldInfo | None) -> bool:
        if part is None or part not in ([], {}):
            return part is None
        if field is None:
            return True
        meant = field.is_required() or name in cls.meant_when_empty
        return not meant and isinstance(part, tuple(_containers(field.annotation)))

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        whole = handler(core_schema)
        schema = handler.resolve_ref_schema(whole)
        for name in schema["properties"].keys() - set(schema.get("required", ())):
            schema["properties"][name] = _or_empty(schema["properties"][name], handler)
        schema["additionalProperties"] = {"anyOf": _EMPTY_VALUES}
        return whole


def _containers(annotation: Any) -> set[type]:
    """Return which of list and dict a field of this type may hold.

    An empty list in the place of a number is a mistake of the client, and no way to leave the field out.
    """
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {dict}
    if (origin := get_origin(annotation)) in {list, dict}:
        return {origin}
    return set().union(*map(_containers, get_args(annotation)))


_EMPTY_VALUES: list[dict[str, Any]] = [
    {"type": "null"},
    {"type": "object", "maxProperties": 0},
    {"type": "array", "maxItems": 0},
]


def _or_empty(schema: dict[str, Any], handler: GetJsonSchemaHandler) -> dict[str, Any]:
    choices = [each for each in schema.get("anyOf", [schema]) if each != _EMPTY_VALUES[0]]
    kinds = {handler.resolve_ref_schema(each).get("type") for each in choices}
    empty = [each for each in _EMPTY_VALUES if each["type"] in {"null", *kinds}]
    return {"anyOf": [*choices, *empty]}


def given(name: str, *, empty_too: bool = False) -> dict[str, Any]:
    """Return the JSON schema of an object that has this field, not empty (``empty_too``: not null)."""
    return {
        "required": [name],
        "properties": {name: {"not": {"anyOf": _EMPTY_VALUES[: 1 if empty_too else None]}}},
    }


def exactly_one(*names: str, meant_when_empty: Collection[str] = ()) -> dict[str, Any]:
    """Return the JSON schema of an object that has exactly one of these fields, and not empty."""
    return {"oneOf": [given(name, empty_too=name in meant_when_empty) for name in names]}


def parse(model: type[Request], body: bytes) -> Request:
    """Return ``body`` as an instance of ``model``. Raises ApiError 400 that names the field at fault."""
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
    # a stack of our own: the nesting of a request must not decide how deep Python recurses
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
    """Return the error a client gets.

    A field that may be of several types has one fault for each of them; the one deepest in the value is named,
    since its type came closest to what was meant.
    """
    faults = error.errors(include_url=False)
    found = max(faults, key=lambda fault: (len(_path(value, fault)), not fault["type"].endswith("_type")))
    param = ".".join(name[:100] for name in _path(value, found))
    if found["type"] == "extra_forbidden":
        message, code = f"Unsupported field: {param}. Remove it.", "unsupported_field"
    elif found["type"] == "missing":
        message, code = f"Missing field: {param}.", "missing_field"
    else:
        problem = _sentence(_plain_words(found))
        where = param or ("The body" if found["type"] in _EXPECTED else "")
        message, code = (f"{where}: {problem}" if where else problem), "bad_value"
    field = model.model_fields.get(param.partition(".")[0])
    why = f" {field.description}" if field and field.description else ""
    return ApiError(400, message + why, code=code, param=param or None)


_EXPECTED = {
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
"""The words for the value a field must have, by pydantic's type of the error."""
_TOO_SHORT = {"string_too_short", "too_short"}
_TOO_LONG = {"string_too_long": "characters", "too_long": "entries"}


def _plain_words(fault: ErrorDetails) -> str:
    """Return the fault in words for whoever wrote the request and knows nothing of pydantic."""
    kind, bounds = fault["type"], fault.get("ctx", {})
    if kind in _TOO_SHORT and not fault["input"]:
        return "It must not be empty"
    if kind in _TOO_LONG:
        return f"It has {len(fault['input'])} {_TOO_LONG[kind]}, and may have at most {bounds['max_length']}"
    if kind not in _EXPECTED:
        return fault["msg"].removeprefix("Value error, ")
    found = to_json(bounds.get("tag", fault["input"])).decode()
    shown = found if len(found) <= _SHOWN_CHARACTERS else f"{found[:_SHOWN_CHARACTERS]}…"
    expected = _EXPECTED[kind].format_map(bounds).replace("False", "false")
    return f"It is {shown}, and must be {expected}"


def _path(value: object, fault: ErrorDetails) -> list[str]:
    """Return the names that lead to the field at fault, as the client wrote them.

    pydantic puts names of our classes between them for fields of several types; those are left out.
    """
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
