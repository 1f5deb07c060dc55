"""How every request is read: no field besides those named, nothing converted, and null as if left out."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core.core_schema import CoreSchema


class Strict(BaseModel):
    """Unknown fields, converted values and numbers that are none are refused.

    Null asks for nothing, so a field that is null is as if it were left out, whatever its name: clients send every
    field they know, and give back the null fields of an answer. The JSON schema says so too.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        return {name: part for name, part in value.items() if part is not None}

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        whole = handler(core_schema)
        schema = handler.resolve_ref_schema(whole)
        for name in schema["properties"].keys() - set(schema.get("required", ())):
            schema["properties"][name] = _or_null(schema["properties"][name])
        schema["additionalProperties"] = {"type": "null"}
        return whole


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    choices = schema.get("anyOf", [schema])
    return schema if {"type": "null"} in choices else {"anyOf": [schema, {"type": "null"}]}


def exactly_one(*names: str) -> dict[str, Any]:
    """JSON schema's words for: one of these fields, and only one, is given and not null."""
    there = {"not": {"type": "null"}}
    return {"oneOf": [{"required": [name], "properties": {name: there}} for name in names]}
