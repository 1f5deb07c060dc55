"""Calls of tools inside an answer: ``<tool_call>{"name": …, "arguments": {…}}</tool_call>``.

Source of the form: NousResearch's Hermes function-calling format, which Qwen's chat templates print as well.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

from backend.core.answer_text import possible_start

OPEN, CLOSE = "<tool_call>", "</tool_call>"


class CallReader:
    """One answer as its text comes, calls taken out of it; what turns out to be no call is given back as text.

    ``calls`` counts those that were found. White space around calls is not part of the text.
    """

    def __init__(self) -> None:
        self.calls = 0
        self._held = ""

    def push(self, text: str, *, last: bool) -> tuple[str, list[dict[str, Any]]]:
        """The text that is safe to show and the calls that are whole; ``last`` with the end of the answer."""
        self._held += text
        shown, found = "", []
        while CLOSE in self._held.partition(OPEN)[2]:
            before, _, rest = self._held.partition(OPEN)
            inside, _, self._held = rest.partition(CLOSE)
            call = _read(inside)
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
