"""The conversation in a request: messages, tools, and which of the tools is to be called."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic.config import JsonDict

from backend.server.no_effect import CacheControlField, EchoedFields, EchoedMessageFields, StreamIndexField
from backend.server.parsing import StrictModel, given

Name = Annotated[str, Field(max_length=256)]


class TextPart(CacheControlField):
    """A part of a message's content; only text is understood."""

    type: Literal["text"]
    text: str


class FunctionCall(EchoedFields):
    """The function that was called, its arguments as JSON text."""

    name: Name
    arguments: str


class ToolCall(StreamIndexField):
    """A tool call that the assistant made earlier in the conversation."""

    id: Name
    type: Literal["function"]
    function: FunctionCall

    def plain(self) -> dict[str, Any]:
        """Return the call as chat templates want it."""
        function = {"name": self.function.name, "arguments": self.function.arguments}
        return {"id": self.id, "type": self.type, "function": function}


_HAS_CONTENT: JsonDict = given("content")
_HAS_REFUSAL: JsonDict = {
    "required": ["refusal"],
    "properties": {"refusal": {"type": "string", "minLength": 1}},
}
_HAS_CALLS: JsonDict = {
    "required": ["tool_calls"],
    "properties": {"tool_calls": {"type": "array", "minItems": 1}},
}
_IS_ASSISTANT: JsonDict = {"properties": {"role": {"const": "assistant"}}}


class ChatMessage(EchoedMessageFields):
    """One message of a conversation. The role developer means system, as in training rows.

    An assistant's reasoning, under either of the two names that servers use, reaches the template as in training.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"allOf": [_HAS_CONTENT, {"not": _HAS_CALLS}]},
                {"allOf": [_IS_ASSISTANT, {"anyOf": [_HAS_CONTENT, _HAS_CALLS, _HAS_REFUSAL]}]},
            ]
        }
    )

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[TextPart], Field(min_length=1, max_length=256)] | None = None
    name: Name | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=128)] | None = None
    tool_call_id: Name | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    thinking: str | None = None

    @model_validator(mode="after")
    def _has_content(self) -> ChatMessage:
        if self.tool_calls and self.role != "assistant":
            raise ValueError("only an assistant's message may have tool_calls")
        if self.content is None and not self.tool_calls and not (self.role == "assistant" and self.refusal):
            raise ValueError("content may be null only beside tool_calls or a refusal")
        return self

    def plain(self) -> dict[str, Any]:
        """Return the message as chat templates want it; the renderer spells the arguments of calls."""
        content = self.content
        if isinstance(content, list):
            content = "".join(part.text for part in content)
        fields = self.model_dump(exclude_none=True, include={"name", "tool_call_id"})
        if self.tool_calls:
            fields["tool_calls"] = [call.plain() for call in self.tool_calls]
        role = "system" if self.role == "developer" else self.role
        return {"role": role, **fields, **self._reasoning, "content": content or self.refusal or ""}

    @property
    def _reasoning(self) -> dict[str, str]:
        """The reasoning, by the keys under which training rows have it."""
        content = self.reasoning_content if self.reasoning_content is not None else self.reasoning
        found = {"reasoning_content": content, "thinking": self.thinking}
        return {key: text for key, text in found.items() if text is not None}


def _well_formed(function: dict[str, Any]) -> dict[str, Any]:
    """Return the function as it came, since templates print it key by key in the client's order."""
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise ValueError("a function needs a name")
    if not isinstance(function.get("parameters"), dict | None):
        raise ValueError("parameters are a JSON schema, an object")  # noqa: TRY004 - pydantic reads this kind
    return function


Function = Annotated[
    dict[str, Any],
    AfterValidator(_well_formed),
    WithJsonSchema(
        {
            "type": "object",
            "properties": {
                "name": {"type": "string", "minLength": 1},
                "parameters": {"type": ["object", "null"]},
            },
            "required": ["name"],
        }
    ),
]


class FunctionTool(CacheControlField):
    """A tool that is shown to the model by its chat template."""

    type: Literal["function"]
    function: Function


class NamedFunction(StrictModel):
    """A function by its name."""

    name: Name


class NamedTool(StrictModel):
    """The one tool that is to be called."""

    type: Literal["function"]
    function: NamedFunction


class WithTools(StrictModel):
    """A request that may have tools."""

    tools: Annotated[list[FunctionTool], Field(max_length=128)] | None = None

    @property
    def plain_tools(self) -> list[dict[str, Any]] | None:
        """The tools as chat templates want them."""
        return [tool.model_dump(include={"type", "function"}) for tool in self.tools] if self.tools else None


class WithToolChoice(WithTools):
    """A request that may say which of its tools may or must be called."""

    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None

    @model_validator(mode="after")
    def _can_be_called(self) -> WithToolChoice:
        names = [tool.function["name"] for tool in self.tools or ()]
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise ValueError("tool_choice names a function that is not among the tools")
        if self.tool_choice == "required" and not names:
            raise ValueError("tool_choice is required, but there are no tools")
        return self

    @property
    def plain_tools(self) -> list[dict[str, Any]] | None:
        """The tools as chat templates want them; None where none may be called."""
        return None if self.tool_choice == "none" else super().plain_tools

    @property
    def must_call(self) -> bool:
        """True if the answer must be a tool call."""
        return self.tool_choice == "required" or isinstance(self.tool_choice, NamedTool)

    @property
    def callable(self) -> list[dict[str, Any]]:
        """The functions that the answer may or must call."""
        functions = [tool["function"] for tool in self.plain_tools or ()]
        if isinstance(self.tool_choice, NamedTool):
            wanted = self.tool_choice.function.name
            return [function for function in functions if function["name"] == wanted]
        return functions
