"""The JSON that clients get, one typed dictionary for each shape; ``openapi`` documents exactly these.

They are dictionaries and no models, since a stream makes one for every token: they cost nothing when they are made,
mypy checks every literal, and tests check what the server really sends against the schema.
"""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import ConfigDict, Field, WithJsonSchema, with_config
from typing_extensions import TypedDict

from backend.inference.token_view import DivergingToken, ScoredToken, ShownPrompt

Count = Annotated[int, Field(ge=0)]
FinishReason = Annotated[str, WithJsonSchema({"type": "string", "enum": ["stop", "length"]})]
ChatFinishReason = Annotated[
    str, WithJsonSchema({"type": "string", "enum": ["stop", "length", "tool_calls"]})
]
_no_other_fields = with_config(ConfigDict(extra="forbid"))
"""Holds for the parts of a response as well: pydantic hands the setting down to typed dictionaries inside."""


class ErrorDetail(TypedDict):
    """The message, the field at fault and a stable code."""

    message: str
    type: str
    param: str | None
    code: str | None


@_no_other_fields
class Error(TypedDict):
    """An error, in the shape that OpenAI's clients read."""

    error: ErrorDetail


@_no_other_fields
class Health(TypedDict):
    """The state of the engine; ``instance`` tells this server from another one on the same port."""

    status: Literal["ok", "restarting"]
    instance: str
    version: str
    precision: str


@_no_other_fields
class Model(TypedDict):
    """A model that can be asked, or a checkpoint of one; ``created`` is in seconds since 1970."""

    id: str
    created: Count
    name: str
    base_model: str
    checkpoints: list[Count]
    best_checkpoint: int | None
    object: Literal["model"]
    owned_by: str


@_no_other_fields
class Models(TypedDict):
    """All models that can be asked."""

    object: Literal["list"]
    data: list[Model]


class Usage(TypedDict):
    """Tokens read and generated."""

    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count


# --- chat -------------------------------------------------------------------------------------------------


class CalledFunction(TypedDict):
    """The function that is called, its arguments as JSON text."""

    name: str
    arguments: str


class AnsweredToolCall(TypedDict):
    """A tool call in an answer."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class ToolCallDelta(TypedDict):
    """A tool call in a stream, where each comes whole; ``index`` is its place among those of the answer."""

    index: Count
    id: str
    type: Literal["function"]
    function: CalledFunction


class ChatAlternative(TypedDict):
    """A token that could have come."""

    token: str
    logprob: float
    bytes: list[int] | None


class ChatTokenLogprob(TypedDict):
    """The token that came, and the likeliest ones in its place."""

    token: str
    logprob: float
    bytes: list[int] | None
    top_logprobs: list[ChatAlternative]


class ChatLogprobs(TypedDict):
    """The log-probability of every token."""

    content: list[ChatTokenLogprob]
    refusal: None


class AssistantMessage(TypedDict):
    """The answer to a conversation."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: NotRequired[list[AnsweredToolCall]]


class ChatChoice(TypedDict):
    """One of the answers."""

    index: Count
    message: AssistantMessage
    finish_reason: ChatFinishReason
    logprobs: ChatLogprobs | None


@_no_other_fields
class ChatCompletion(TypedDict):
    """``POST /v1/chat/completions``."""

    id: str
    created: Count
    model: str
    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: Usage


class ChatDelta(TypedDict):
    """The part of an answer that a chunk adds: the role in its first chunk, nothing in its last."""

    role: NotRequired[Literal["assistant"]]
    content: NotRequired[str]
    tool_calls: NotRequired[list[ToolCallDelta]]


class ChatChunkChoice(TypedDict):
    """A part of one of the answers."""

    index: Count
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinishReason | None


@_no_other_fields
class ChatCompletionChunk(TypedDict):
    """One event of a streamed ``POST /v1/chat/completions``; ``usage`` is there when the request wants it."""

    id: str
    created: Count
    model: str
    object: Literal["chat.completion.chunk"]
    usage: NotRequired[Usage | None]
    choices: list[ChatChunkChoice]


# --- plain completions ------------------------------------------------------------------------------------


class CompletionLogprobs(TypedDict):
    """The log-probability of every token, and where it begins in the text, in characters."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[Count]


class CompletionChoice(TypedDict):
    """One of the answers."""

    index: Count
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason


@_no_other_fields
class Completion(TypedDict):
    """``POST /v1/completions``."""

    id: str
    created: Count
    model: str
    object: Literal["text_completion"]
    choices: list[CompletionChoice]
    usage: Usage


class CompletionChunkChoice(TypedDict):
    """A part of one of the answers."""

    index: Count
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None


@_no_other_fields
class CompletionChunk(TypedDict):
    """One event of a streamed ``POST /v1/completions``; ``usage`` is there when the request wants it."""

    id: str
    created: Count
    model: str
    object: Literal["text_completion"]
    usage: NotRequired[Usage | None]
    choices: list[CompletionChunkChoice]


# --- embeddings and inspection ----------------------------------------------------------------------------


class Embedding(TypedDict):
    """The vector of one text, as numbers or as base64 of little-endian float32."""

    object: Literal["embedding"]
    index: Count
    embedding: list[float] | str


class EmbeddingUsage(TypedDict):
    """Tokens read."""

    prompt_tokens: Count
    total_tokens: Count


@_no_other_fields
class Embeddings(TypedDict):
    """``POST /v1/embeddings``."""

    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: EmbeddingUsage


class InspectedAnswer(TypedDict):
    """An answer token by token."""

    text: str
    finish_reason: FinishReason
    tokens: list[ScoredToken]


class ComparedAnswer(TypedDict):
    """The answer of one of the two models, token by token."""

    model: str
    text: str
    finish_reason: FinishReason
    tokens: list[ScoredToken]


@_no_other_fields
class TokenView(TypedDict):
    """``POST /tunesmith/v1/token-view``."""

    model: str
    prompt: ShownPrompt
    answer: InspectedAnswer


@_no_other_fields
class Comparison(TypedDict):
    """``POST /tunesmith/v1/compare``: ``divergence`` is along the tuned answer, in nats."""

    prompt: ShownPrompt
    tuned: ComparedAnswer
    base: ComparedAnswer
    first_difference: int | None
    divergence: list[DivergingToken]
    mean_kl: float
