"""Calls of tools in an answer, read and asked for: ``<tool_call>{"name": …, "arguments": {…}}</tool_call>``.

Source of the form: NousResearch's Hermes function-calling format, which Qwen's chat templates print as well.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from backend.inference.answer_text import possible_start
from backend.inference.constraint import Constraint

OPEN, CLOSE = "<tool_call>", "</tool_call>"
Function: TypeAlias = Mapping[str, Any]
"""A function as clients describe it: ``name``, and the JSON schema of its arguments as ``parameters``."""
_NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}


def one_call(functions: Sequence[Function], *, form: Mapping[str, Any] | None = None) -> Constraint:
    """An answer that is a call of one of ``functions``; or, where ``form`` is given, JSON valid under it."""
    return Constraint.call(f"{OPEN}\n", _schemas(functions), f"\n{CLOSE}", form=form)


def calls_by_schema(functions: Sequence[Function]) -> Constraint:
    """An answer that may say anything, but calls only these functions, with arguments as their schema wants them."""
    return Constraint.calls_in_text(f"{OPEN}\n", _schemas(functions), f"\n{CLOSE}")


def _schemas(functions: Sequence[Function]) -> dict[str, Any]:
    return {each["name"]: each.get("parameters") or _NO_ARGUMENTS for each in functions}


class CallReader:
    """One answer as its text comes, calls taken out of it; what turns out to be no call is given back as text.

    ``calls`` counts those that were found. A call that the answer ends in need not be closed. White space around
    calls is not part of the text.
    """

    def __init__(self) -> None:
        self.calls = 0
        self._held = ""

    def push(self, text: str, *, last: bool) -> tuple[str, list[dict[str, Any]]]:
        """The text that is safe to show and the calls that are whole; ``last`` with the end of the answer."""
        self._held += text
        shown, found = "", []
        while True:
            before, _, rest = self._held.partition(OPEN)
            inside, closed, after = rest.partition(CLOSE)
            call = _read(inside) if closed or last else None
            if not closed and not call:
                break
            self._held = after
            shown += before.rstrip() if call else f"{before}{OPEN}{inside}{CLOSE}"
            found += [{"index": self.calls, **call}] if call else []
            self.calls += bool(call)
        safe = self._held.partition(OPEN)[0]
        safe = safe[: len(safe) - possible_start(safe, (OPEN,))] if safe == self._held else safe
        safe = self._held if last else safe.rstrip()
        shown, self._held = shown + safe, self._held[len(safe) :]
        return (shown.rstrip() if last and self.calls else shown), found


def _read(inside: str) -> dict[str, Any] | None:
    """A call as OpenAI's clients want it, or None where ``inside`` is none."""
    try:
        said = json.loads(inside)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or not isinstance(said.get("name"), str):
        return None
    arguments = said.get("arguments", {})
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {
        "id": f"call_{uuid.uuid4().hex[:24]}",
        "type": "function",
        "function": {"name": said["name"], "arguments": text},
    }
