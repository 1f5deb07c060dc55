"""The requests, field by field with types and bounds. Values are never converted, and unknown fields are refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from backend.inference.constraint import Constraint
from backend.inference.sampling import Sampling
from backend.inference.shared_base import MAX_STRENGTH
from backend.server.conversation import ChatMessage, WithToolChoice, WithTools
from backend.server.no_effect import HostedServiceFields, InsertionFields, StreamPaddingField, UserField
from backend.server.parsing import StrictModel, exactly_one
from backend.server.tool_calls import calls_by_schema, one_call

MAX_ANSWERS = 16
MAX_TOKENS = 1_048_576
MAX_TEXTS = 128
"""Most texts of one request, to be continued or embedded."""


class StreamOptions(StreamPaddingField):
    """The options of a stream."""

    include_usage: bool = False


class JsonSchema(StrictModel):
    """A JSON schema by name."""

    name: Annotated[str, Field(max_length=256)]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    description: str | None = None
    strict: bool | None = None


class PlainText(StrictModel):
    """An answer without a fixed form."""

    type: Literal["text"]


class JsonObject(StrictModel):
    """An answer that is a JSON object."""

    type: Literal["json_object"]


class JsonOfSchema(StrictModel):
    """An answer that is valid under a JSON schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


class StructuredOutputs(StrictModel):
    """The form of an answer: exactly one of its fields."""

    meant_when_empty = frozenset({"json"})
    model_config = ConfigDict(
        json_schema_extra=exactly_one("choice", "regex", "json", meant_when_empty=meant_when_empty)
    )

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
        """Return the form as a constraint of decoding."""
        if self.choice:
            return Constraint.choice(*self.choice)
        return Constraint.regex(self.regex) if self.regex else Constraint.json(self.json_)


Count = Annotated[int, Field(ge=1, le=MAX_TOKENS)]
ModelName = Annotated[str, Field(min_length=1, max_length=256)]
EmbeddedText = Annotated[str, Field(min_length=1, max_length=65_536)]
PromptText = Annotated[str, Field(min_length=1)]
StopText = Annotated[str, Field(min_length=1, max_length=256)]


def _no_ids(value: object) -> object:
    if isinstance(value, list) and value and isinstance(value[0], int | list):
        raise ValueError("token ids mean other texts to other tokenizers, so only text is taken")
    return value


class GenerationRequest(UserField):
    """The fields of every request for an answer: the model, and how its tokens are sampled."""

    model: ModelName
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.1, le=10)] = 1.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    adapter_strength: Annotated[float, Field(ge=0, le=MAX_STRENGTH)] = 1.0

    @property
    def fixed_seed(self) -> int | None:
        """The seed, 0 or more; None where none is given: no seed or -1, which means the same to other servers."""
        return None if self.seed in {None, -1} else (self.seed or 0) % 2**63

    def sampling(self, *, seed: int, max_new_tokens: int, top_logprobs: int = 0) -> Sampling:
        """Return how the tokens of one answer are chosen."""
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


class StreamableRequest(GenerationRequest):
    """The fields that chat and plain completions share."""

    n: Annotated[int, Field(ge=1, le=MAX_ANSWERS)] = 1
    stream: bool = False
    stream_options: StreamOptions | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=16)] | None = None
    structured_outputs: StructuredOutputs | None = None

    @model_validator(mode="after")
    def _options_of_a_stream(self) -> StreamableRequest:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is only allowed when stream is true")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def with_usage(self) -> bool:
        """True if a stream ends with a chunk that counts its tokens."""
        return self.stream_options is not None and self.stream_options.include_usage

    def constraint(self) -> Constraint | None:
        """Return the form the answer must have, if any."""
        return self.structured_outputs.constraint() if self.structured_outputs is not None else None


class ChatRequest(StreamableRequest, WithToolChoice, HostedServiceFields):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=1000)]
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: Annotated[PlainText | JsonObject | JsonOfSchema, Field(discriminator="type")] | None = (
        None
    )

    @model_validator(mode="after")
    def _belong_together(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs is only allowed when logprobs is true")
        if self.structured_outputs is not None and self.response_format is not None:
            raise ValueError("give structured_outputs or response_format, not both")
        if self.must_call and self.constraint() is not None:
            raise ValueError("An answer that has to be a call of a tool can have no other form")
        return self

    @property
    def _json_schema(self) -> dict[str, Any] | None:
        if isinstance(self.response_format, JsonOfSchema):
            return self.response_format.json_schema.schema_
        return {"type": "object"} if isinstance(self.response_format, JsonObject) else None

    def constraint(self) -> Constraint | None:
        """Return the form the answer must have, if any, where it is no tool call."""
        return super().constraint() if self._json_schema is None else Constraint.json(self._json_schema)

    def calls_constraint(self) -> Constraint | None:
        """Return the constraint on tool calls, if any: where one is required, strict, or an alternative to JSON."""
        functions = self.callable
        if functions and (self.must_call or self._json_schema is not None):
            return one_call(functions, form=self._json_schema)
        return calls_by_schema(functions) if any(each.get("strict") for each in functions) else None

    @property
    def limit(self) -> int | None:
        """The most new tokens, by either of the two names; the smaller where both are given."""
        given = [count for count in (self.max_tokens, self.max_completion_tokens) if count is not None]
        return min(given, default=None)


class CompletionRequest(StreamableRequest, InsertionFields):
    """``POST /v1/completions``."""

    prompt: Annotated[
        PromptText | Annotated[list[PromptText], Field(min_length=1, max_length=MAX_TEXTS)],
        BeforeValidator(_no_ids),
    ]
    max_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS)] = 16
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool = False

    @model_validator(mode="after")
    def _few_enough(self) -> CompletionRequest:
        if len(self.prompts) * self.n > MAX_TEXTS:
            raise ValueError(f"prompt and n ask for more than {MAX_TEXTS} answers")
        if self.echo and self.logprobs is not None:
            raise ValueError("echo and logprobs exclude each other, since a prompt is not judged")
        return self

    @property
    def prompts(self) -> list[str]:
        """The texts to be continued, one or many."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


class InspectionRequest(GenerationRequest, WithTools):
    """The fields that token view and comparison share."""

    model_config = ConfigDict(json_schema_extra=exactly_one("messages", "prompt"))

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=1000, default_factory=list)]
    prompt: Annotated[str, Field(min_length=1)] = ""
    max_tokens: Annotated[int, Field(ge=1, le=512)] = 128
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    top: Annotated[int, Field(ge=0, le=20)] = 5

    @model_validator(mode="after")
    def _one_prompt(self) -> InspectionRequest:
        if len(self.model_fields_set & {"messages", "prompt"}) != 1:
            raise ValueError("give exactly one of messages and prompt")
        return self

    def conversation(self) -> list[dict[str, Any]]:
        """Return the messages; a prompt is a user's message."""
        if not self.messages:
            return [{"role": "user", "content": self.prompt}]
        return [message.plain() for message in self.messages]


class TokenViewRequest(InspectionRequest):
    """``POST /tunesmith/v1/token-view``."""

    answer: Annotated[str, Field(min_length=1, max_length=65_536)] | None = None


class CompareRequest(InspectionRequest):
    """``POST /tunesmith/v1/compare``."""

    against: ModelName | None = None


class EmbeddingRequest(UserField):
    """``POST /v1/embeddings``."""

    model: ModelName
    input: Annotated[
        EmbeddedText | Annotated[list[EmbeddedText], Field(min_length=1, max_length=MAX_TEXTS)],
        BeforeValidator(_no_ids),
    ]
    encoding_format: Literal["float", "base64"] = "float"

    @property
    def texts(self) -> list[str]:
        """The texts, one or many."""
        return [self.input] if isinstance(self.input, str) else self.input
