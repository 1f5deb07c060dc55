"""Request fields that are accepted and have no effect, each with the reason why accepting it promises nothing.

This is the whole list: any other field that is not understood is refused, since it could have changed the answer. A
value that would be a promise (``store: true``) is refused too, with the reason that stands here.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from backend.server.parsing import StrictModel

Label = Annotated[str, Field(max_length=512)]


class UserField(StrictModel):
    """The name of the user, in any request."""

    user: Label | None = Field(None, description="Nobody is watched or counted here by name.")


class HostedServiceFields(UserField):
    """Fields of chat requests for a hosted service: for its bookkeeping, its queues and its caches."""

    safety_identifier: Label | None = Field(None, description="Nobody is watched or counted here by name.")
    metadata: Annotated[dict[str, Label], Field(max_length=16)] | None = Field(
        None, description="It labels stored answers, and none are stored here."
    )
    store: Literal[False] | None = Field(None, description="No answer is stored here.")
    service_tier: Literal["auto", "default"] | None = Field(None, description="There is one queue for all.")
    prompt_cache_key: Label | None = Field(None, description="No prompt is kept from one request to another.")
    prompt_cache_retention: Literal["in_memory", "24h"] | None = Field(
        None, description="It says how long a prompt may be kept at most, and none is kept."
    )
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = Field(
        None, description="How long a model thinks was learned from its rows, and there is no setting for it."
    )
    verbosity: Literal["low", "medium", "high"] | None = Field(
        None, description="How long a model's answers are was learned from its rows."
    )
    modalities: Annotated[list[Literal["text"]], Field(min_length=1, max_length=1)] | None = Field(
        None, description="Answers are text."
    )


class InsertionFields(StrictModel):
    """Fields of plain completions for filling in and for choosing among several answers."""

    suffix: Literal[""] | None = Field(None, description="A text is continued here, not filled in.")
    best_of: Literal[1] | None = Field(None, description="No more answers are made than are given.")


class StreamPaddingField(StrictModel):
    """Random text in every chunk of a stream, which hides the lengths of tokens from a network."""

    include_obfuscation: Literal[False] | None = Field(None, description="Streams are not padded here.")


class CacheControlField(StrictModel):
    """A mark for a hosted service to keep this part of the prompt."""

    cache_control: dict[str, object] | None = Field(
        None, description="No prompt is kept from one request to another."
    )


class EchoedFields(StrictModel):
    """Fields that client libraries add to a part of an answer before they send it back."""

    provider_specific_fields: dict[str, None] | None = Field(
        None, description="LiteLLM keeps the null fields of an answer there."
    )


class EchoedMessageFields(EchoedFields, CacheControlField):
    """Fields of an assistant's message that are not part of its text."""

    id: Label | None = Field(None, description="A message is known by its place.")
    annotations: Annotated[list[dict[str, object]], Field(max_length=1000)] | None = Field(
        None, description="Notes on an answer are no part of it."
    )


class StreamIndexField(EchoedFields):
    """The place of a tool call in the stream that a client put it together from."""

    index: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Calls stand in the order of the list."
    )
