"""What a client may ask: every field with its type and bounds, and no field besides. Nothing is converted."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from backend.core.constraint import Constraint
from backend.core.sampling import Sampling
from backend.core.shared_base import MAX_STRENGTH

MAX_ANSWERS = 16
MAX_TOKENS = 1_048_576
MAX_TEXTS = 128
"""Most texts of one request for embeddings."""


class Strict(BaseModel):
    """Unknown fields, converted values and numbers that are none are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class TextPart(Strict):
    """A part of a content; only text is understood."""

    type: Literal["text"]
    text: str


class FunctionCall(Strict):
    """The function of a tool call, its arguments as JSON text."""

    name: Annotated[str, Field(max_length=256)]
    arguments: str


class ToolCall(Strict):
    """A call of a tool that the assistant made before."""

    id: Annotated[str, Field(max_length=256)]
    type: Literal["function"]
    function: FunctionCall


class ChatMessage(Strict):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | Annotated[list[TextPart], Field(min_length=1, max_length=256)] | None = None
    name: Annotated[str, Field(max_length=256)] | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=128)] | None = None
    tool_call_id: Annotated[str, Field(max_length=256)] | None = None

    def plain(self) -> dict[str, Any]:
        """The message as chat templates want it."""
        content = self.content
        if isinstance(content, list):
            content = "".join(part.text for part in content)
        fields = self.model_dump(exclude_none=True, exclude={"content", "tool_calls"})
        if self.tool_calls is not None:
            fields["tool_calls"] = [
                {
                    **call.model_dump(),
                    "function": {
                        "name": call.function.name,
                        "arguments": _arguments(call.function.arguments),
                    },
                }
                for call in self.tool_calls
            ]
        return {**fields, "content": content or ""}


def _arguments(text: str) -> object:
    """Templates print arguments as JSON themselves, so they want the object and not its text."""
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value


class FunctionTool(Strict):
    """A tool that is shown to the model by its chat template."""

    type: Literal["function"]
    function: dict[str, Any]


class WithTools(Strict):
    """What a request says of tools."""

    tools: Annotated[list[FunctionTool], Field(max_length=128)] | None = None

    @property
    def plain_tools(self) -> list[dict[str, Any]] | None:
        """The tools as chat templates want them."""
        return [tool.model_dump() for tool in self.tools] if self.tools else None


class StreamOptions(Strict):
    """What a stream holds besides the answer."""

    include_usage: bool = False


class JsonSchema(Strict):
    """A JSON schema by name."""

    name: Annotated[str, Field(max_length=256)]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    description: str | None = None
    strict: bool | None = None


class PlainText(Strict):
    """An answer of any form."""

    type: Literal["text"]


class JsonObject(Strict):
    """An answer that is a JSON object."""

    type: Literal["json_object"]


class JsonOfSchema(Strict):
    """An answer that is valid under a JSON schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


class StructuredOutputs(Strict):
    """The form of an answer: exactly one of its fields."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "maxProperties": 1})

    choice: Annotated[
        list[Annotated[str, Field(min_length=1)]],
        Field(min_length=1, max_length=1000, default_factory=list),
    ]
    regex: Annotated[str, Field(min_length=1, max_length=65_536)] = ""
    json_: Annotated[dict[str, Any], Field(alias="json", default_factory=dict)]

    @model_validator(mode="after")
    def _exactly_one(self) -> StructuredOutputs:
        if len(self.model_fields_set) != 1:
            raise ValueError("give exactly one of choice, regex and json")
        return self

    def constraint(self) -> Constraint:
        """The form in our words."""
        if self.choice:
            return Constraint.choice(*self.choice)
        return Constraint.regex(self.regex) if self.regex else Constraint.json(self.json_)


Count = Annotated[int, Field(ge=1, le=MAX_TOKENS)]
ModelName = Annotated[str, Field(min_length=1, max_length=256)]
EmbeddedText = Annotated[str, Field(min_length=1, max_length=65_536)]
StopText = Annotated[str, Field(min_length=1, max_length=256)]


class Generation(Strict):
    """What all requests for an answer have in common."""

    model: ModelName
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.1, le=10)] = 1.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    adapter_strength: Annotated[float, Field(ge=0, le=MAX_STRENGTH)] = 1.0

    def sampling(self, *, seed: int, max_new_tokens: int, top_logprobs: int = 0) -> Sampling:
        """How the tokens of one answer are chosen."""
        return Sampling(
            max_new_tokens=max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            seed=seed,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            top_logprobs=top_logprobs,
        )


class Streamed(Generation):
    """What chat and plain completions have in common."""

    n: Annotated[int, Field(ge=1, le=MAX_ANSWERS)] = 1
    stream: bool = False
    stream_options: StreamOptions | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=16)] | None = None
    structured_outputs: StructuredOutputs | None = None

    @model_validator(mode="after")
    def _options_of_a_stream(self) -> Streamed:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is only allowed when stream is true")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with what it cost."""
        return self.stream_options is not None and self.stream_options.include_usage

    def constraint(self) -> Constraint | None:
        """The form the answer must have, if any."""
        return self.structured_outputs.constraint() if self.structured_outputs is not None else None


class ChatRequest(Streamed, WithTools):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=1000)]
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: Annotated[PlainText | JsonObject | JsonOfSchema, Field(discriminator="type")] | None = (
        None
    )
    tool_choice: Literal["auto", "none"] = "auto"

    @model_validator(mode="after")
    def _belong_together(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs is only allowed when logprobs is true")
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("give max_tokens or max_completion_tokens, not both")
        if self.structured_outputs is not None and self.response_format is not None:
            raise ValueError("give structured_outputs or response_format, not both")
        return self

    def constraint(self) -> Constraint | None:
        """The form the answer must have, if any."""
        if isinstance(self.response_format, JsonOfSchema):
            return Constraint.json(self.response_format.json_schema.schema_)
        return Constraint.json() if isinstance(self.response_format, JsonObject) else super().constraint()

    @property
    def plain_tools(self) -> list[dict[str, Any]] | None:
        """The tools as chat templates want them; None where none may be called."""
        return super().plain_tools if self.tool_choice == "auto" else None

    @property
    def limit(self) -> int | None:
        """The most tokens that are wanted."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class CompletionRequest(Streamed):
    """``POST /v1/completions``."""

    prompt: Annotated[str, Field(min_length=1)]
    max_tokens: Count = 16
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None


class Looked(Generation, WithTools):
    """What the looks inside have in common."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["messages"]}, {"required": ["prompt"]}]}
    )

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=1000, default_factory=list)]
    prompt: Annotated[str, Field(min_length=1)] = ""
    max_tokens: Annotated[int, Field(ge=1, le=512)] = 128
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    top: Annotated[int, Field(ge=0, le=20)] = 5

    @model_validator(mode="after")
    def _one_prompt(self) -> Looked:
        if len(self.model_fields_set & {"messages", "prompt"}) != 1:
            raise ValueError("give exactly one of messages and prompt")
        return self

    def conversation(self) -> list[dict[str, Any]]:
        """The messages; a prompt is a user's."""
        if not self.messages:
            return [{"role": "user", "content": self.prompt}]
        return [message.plain() for message in self.messages]


class TokenViewRequest(Looked):
    """``POST /tunesmith/v1/token-view``."""

    answer: Annotated[str, Field(min_length=1, max_length=65_536)] | None = None


class CompareRequest(Looked):
    """``POST /tunesmith/v1/compare``."""

    against: ModelName | None = None


class EmbeddingRequest(Strict):
    """``POST /v1/embeddings``."""

    model: ModelName
    input: EmbeddedText | Annotated[list[EmbeddedText], Field(min_length=1, max_length=MAX_TEXTS)]
    encoding_format: Literal["float", "base64"] = "float"

    @property
    def texts(self) -> list[str]:
        """The texts, one or many."""
        return [self.input] if isinstance(self.input, str) else self.input
