"""Tool calls in an answer, read and constrained: ``<tool_call>{"name": …, "arguments": {…}}</tool_call>``.

Source of the form: NousResearch's Hermes function-calling format, which Qwen's chat templates print as well.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from backend.inference.answer_text import possible_start
from backend.inference.constraint import Constraint
from backend.server.responses import AnsweredToolCall, ToolCallDelta

OPEN, CLOSE = "<tool_call>", "</tool_call>"
Function: TypeAlias = Mapping[str, Any]
"""A function as clients describe it: ``name``, and the JSON schema of its arguments as ``parameters``."""
_NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}


def one_call(functions: Sequence[Function], *, form: Mapping[str, Any] | None = None) -> Constraint:
    """Return the constraint to a call of one of ``functions`` or, where ``form`` is given, to JSON valid under it."""
    return Constraint.call(f"{OPEN}\n", _schemas(functions), f"\n{CLOSE}", form=form)


def calls_by_schema(functions: Sequence[Function]) -> Constraint:
    """Return the constraint to text that calls only these functions, with arguments valid under their schema."""
    return Constraint.calls_in_text(f"{OPEN}\n", _schemas(functions), f"\n{CLOSE}")


def _schemas(functions: Sequence[Function]) -> dict[str, Any]:
    return {each["name"]: each.get("parameters") or _NO_ARGUMENTS for each in functions}


class CallReader:
    """Takes the calls out of one answer as its text comes; what turns out to be no call is given back as text.

    ``calls`` counts those that were found. A call at the end of the answer need not be closed. White space around
    calls is not part of the text.
    """

    def __init__(self) -> None:
        self.calls = 0
        self._held = ""

    def push(self, text: str, *, last: bool) -> tuple[str, list[ToolCallDelta]]:
        """Return the text that is safe to show and the calls that are complete; ``last`` at the end of the answer."""
        self._held += text
        shown = ""
        found: list[ToolCallDelta] = []
        while True:
            before, _, rest = self._held.partition(OPEN)
            inside, closed, after = rest.partition(CLOSE)
            call = _read(inside) if closed or last else None
            if not closed and not call:
                break
            self._held = after
            shown += before.rstrip() if call else f"{before}{OPEN}{inside}{CLOSE}"
            if call:
                found.append({"index": self.calls, **call})
                self.calls += 1
        safe = self._held.partition(OPEN)[0]
        safe = safe[: len(safe) - possible_start(safe, (OPEN,))] if safe == self._held else safe
        safe = self._held if last else safe.rstrip()
        shown, self._held = shown + safe, self._held[len(safe) :]
        return (shown.rstrip() if last and self.calls else shown), found


def _read(inside: str) -> AnsweredToolCall | None:
    """Return the call as OpenAI's clients want it, or None where ``inside`` is none."""
    try:
        call = json.loads(inside)
    except (ValueError, RecursionError):
        return None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return None
    arguments = call.get("arguments", {})
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {
        "id": f"call_{uuid.uuid4().hex[:24]}",
        "type": "function",
        "function": {"name": call["name"], "arguments": text},
    }
