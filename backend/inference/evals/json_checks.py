"""Checks of JSON: whether an answer is or contains some, whether it is a tool call, and which fields are right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from backend.inference.evals.assertion import Assertion
from backend.inference.evals.json_text import (
    NotJsonError,
    Schema,
    canonical,
    json_inside,
    read_json_text,
)
from backend.inference.evals.text_checks import Judge, shown, verdict
from backend.inference.evals.verdicts import Answer, Row, Score, UndecidedError, require_short
from backend.utils.config_utils import parse_yaml


def is_json(asked: Assertion) -> Judge:
    """The whole text is JSON, valid under the schema in the value if there is one."""
    schema = _schema(asked)

    def judge(answer: Answer, _: Row) -> Score:
        if schema:
            require_short(answer.text)
        try:
            value = read_json_text(answer.text)
        except NotJsonError as error:
            return verdict(False, f"It is not JSON: {error}.")
        fault = _fault(schema, value) if schema else ""
        return verdict(not fault, f"It does not fit the schema: {fault}.")

    return judge


def contains_json(asked: Assertion) -> Judge:
    """An object or a list stands somewhere in the text as JSON, valid under the schema if there is one."""
    schema = _schema(asked)

    def judge(answer: Answer, _: Row) -> Score:
        require_short(answer.text)
        fault = "there is none"
        for value in json_inside(answer.text):
            fault = _fault(schema, value) if schema else ""
            if not fault:
                return verdict(True, "")
        return verdict(False, f"It contains no JSON that fits: {fault}.")

    return judge


def is_tools_call(asked: Assertion) -> Judge:
    """The answer is one call or more, in OpenAI's form, of functions that the row's ``tools`` or the value declare.

    The calls are those of the answer, or its text as JSON. Arguments must fit the schema of their function.
    """

    def judge(answer: Answer, row: Row) -> Score:
        tools = row.get("tools") if asked.value is None else asked.value
        declared = _declared(tools)
        if not declared:
            raise UndecidedError("No tools are declared that could be called.")
        require_short(answer.text)
        calls = answer.tool_calls or _calls_in(answer.text)
        if not calls:
            return verdict(False, "It is no tool call.")
        faults = [fault for call in calls if (fault := _call_fault(call, declared))]
        return verdict(not faults, "".join(faults[:1]))

    return judge


def json_fields(asked: Assertion) -> Judge:
    """The answer's JSON has the fields of the expected JSON; the score is the share that is equal.

    The value lists the fields that count, by default all that are expected. Passes at the threshold, by default 1.
    """
    names, least = asked.value, asked.limit(1.0)
    if names is not None and (
        not isinstance(names, list) or not all(isinstance(name, str) for name in names)
    ):
        raise asked.refused("value", f"It is {names!r}.", "List the names of fields.")

    def judge(answer: Answer, row: Row) -> Score:
        wanted = _object(row.get("expected"))
        if wanted is None:
            raise UndecidedError("The row's expected answer is no JSON object.")
        fields = [name for name in (names or wanted) if name in wanted]
        if not fields:
            raise UndecidedError("The row's expected answer has none of the fields.")
        require_short(answer.text)
        found = _object(answer.text)
        if found is None:
            return verdict(False, "It is no JSON object.")
        wrong = [
            name for name in fields if name not in found or canonical(found[name]) != canonical(wanted[name])
        ]
        share = (len(fields) - len(wrong)) / len(fields)
        return verdict(share >= least, f"Missing or other: {', '.join(map(shown, wrong))}.", score=share)

    return judge


def _object(value: Any) -> Mapping[str, Any] | None:
    if isinstance(value, str):
        try:
            value = read_json_text(value)
        except NotJsonError:
            return None
    return value if isinstance(value, dict) else None


def _schema(asked: Assertion) -> Schema | None:
    """Return the schema in the value, a mapping or its text as JSON or YAML; None without one."""
    value = asked.value
    if value is None:
        return None
    if isinstance(value, str):
        value = parse_yaml(value, where=f"{asked.where}.value")
    if not isinstance(value, dict | bool):
        raise asked.refused("value", f"It is {value!r}.", "Give a JSON schema, or none.")
    try:
        return Schema(value)
    except ValueError as error:
        raise asked.refused("value", f"This is no JSON schema: {error}.", "Mend it.") from error


def _fault(schema: Schema, value: Any) -> str:
    try:
        return schema.fault(value)
    except ValueError as error:
        raise UndecidedError(f"The schema cannot be used: {error}.") from error


def _declared(tools: Any) -> dict[str, Any]:
    """Return name -> schema of the arguments, of tools in OpenAI's form."""
    if isinstance(tools, str):
        try:
            tools = read_json_text(tools)
        except NotJsonError:
            return {}
    found = {}
    for tool in tools if isinstance(tools, Sequence) else ():
        function = tool.get("function", tool) if isinstance(tool, Mapping) else {}
        if isinstance(function, Mapping) and isinstance(function.get("name"), str):
            found[function["name"]] = function.get("parameters", True)
    return found


def _calls_in(text: str) -> Sequence[Mapping[str, Any]]:
    """Return the calls of a text that is JSON, or of those between ``<tool_call>`` tags, as Hermes and Qwen write."""
    marked = [each.partition("</tool_call>")[0] for each in text.split("<tool_call>")[1:]]
    try:
        value = [read_json_text(each) for each in marked] if marked else read_json_text(text)
    except NotJsonError:
        return ()
    calls = value.get("tool_calls", [value]) if isinstance(value, dict) else value
    return calls if isinstance(calls, list) and all(isinstance(call, dict) for call in calls) else ()


def _call_fault(call: Mapping[str, Any], declared: Mapping[str, Any]) -> str:
    function = call.get("function", call)
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or name not in declared:
        return f"It calls {shown(name)}, which is not declared." if name else "A call has no function name."
    arguments = function.get("arguments", {})
    try:
        value = read_json_text(arguments) if isinstance(arguments, str) else arguments
        fault = Schema(declared[name]).fault(value)
    except NotJsonError as error:
        fault = str(error)
    except ValueError as error:
        raise UndecidedError(f"The tool {name} has no usable schema: {error}.") from error
    return f"The arguments of {name} do not fit: {fault}." if fault else ""
