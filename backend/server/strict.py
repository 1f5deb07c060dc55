"""How every request is read: no field besides those named, nothing converted; null and nothing as if left out."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, model_validator
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core.core_schema import CoreSchema


class Strict(BaseModel):
    """Unknown fields, converted values and numbers that are none are refused.

    Null asks for nothing, nor does an empty list or object where one may stand, so such a field is as if it were left
    out, whatever its name: clients send every field they know, and give back the empty fields of an answer. Fields
    that must be given and ``meant_when_empty`` are taken as they are. The JSON schema says so too.
    """

    meant_when_empty: ClassVar[frozenset[str]] = frozenset()

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_nothing(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        fields = {field.alias or name: field for name, field in cls.model_fields.items()}
        return {
            name: part for name, part in value.items() if not cls._is_nothing(name, part, fields.get(name))
        }

    @classmethod
    def _is_nothing(cls, name: str, part: object, field: FieldInfo | None) -> bool:
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
            schema["properties"][name] = _or_nothing(schema["properties"][name], handler)
        schema["additionalProperties"] = {"anyOf": _NOTHING}
        return whole


def _containers(annotation: Any) -> set[type]:
    """What of list and dict a field of this type may hold; an empty number is a mistake and not nothing."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {dict}
    if (origin := get_origin(annotation)) in {list, dict}:
        return {origin}
    return set().union(*map(_containers, get_args(annotation)))


_NOTHING: list[dict[str, Any]] = [
    {"type": "null"},
    {"type": "object", "maxProperties": 0},
    {"type": "array", "maxItems": 0},
]


def _or_nothing(schema: dict[str, Any], handler: GetJsonSchemaHandler) -> dict[str, Any]:
    choices = [each for each in schema.get("anyOf", [schema]) if each != _NOTHING[0]]
    kinds = {handler.resolve_ref_schema(each).get("type") for each in choices}
    nothing = [each for each in _NOTHING if each["type"] in {"null", *kinds}]
    return {"anyOf": [*choices, *nothing]}


def given(name: str, *, empty_too: bool = False) -> dict[str, Any]:
    """JSON schema's words for: this field is there and not nothing (``empty_too``: not null)."""
    return {
        "required": [name],
        "properties": {name: {"not": {"anyOf": _NOTHING[: 1 if empty_too else None]}}},
    }


def exactly_one(*names: str, meant_when_empty: Collection[str] = ()) -> dict[str, Any]:
    """JSON schema's words for: one of these fields, and only one, is given and not nothing."""
    return {"oneOf": [given(name, empty_too=name in meant_when_empty) for name in names]}
