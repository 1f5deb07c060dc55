"""Texts as vectors, by any model that is served."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from functools import partial

from backend.inference.embedding import batches, embed_texts
from backend.server.errors import ApiError
from backend.server.responses import Embedding, Embeddings
from backend.server.schemas import EmbeddingRequest
from backend.server.service import Service

MAX_TEXT_TOKENS = 2048
"""Longest text, in tokens: it is read in one pass, and the answers of other requests wait for it."""


async def embed(service: Service, request: EmbeddingRequest) -> Embeddings:
    """Return one vector for each text, in order. Raises ApiError."""
    source, renderer = await service.model(request.model)
    rendered = await service.in_thread(
        lambda: [renderer.render_text(text) for text in request.texts], prompt="input"
    )
    for index, ids in enumerate(rendered):
        if len(ids) > MAX_TEXT_TOKENS:
            param = "input" if isinstance(request.input, str) else f"input.{index}"
            problem = f"{param}: It has {len(ids)} tokens, and at most {MAX_TEXT_TOKENS} can be embedded."
            raise ApiError(400, problem, code="text_too_long", param=param)
    vectors: dict[int, list[float]] = {}
    # batch by batch, so that the engine gives the answers of others a token between two of them
    for batch in batches([len(ids) for ids in rendered], renderer.rope_border):
        texts = [rendered[index] for index in batch]
        computed = await service.wait(
            service.engine.compute((source, 1.0), partial(embed_texts, texts=texts))
        )
        vectors |= dict(zip(batch, computed, strict=True))
    data: list[Embedding] = [
        {
            "object": "embedding",
            "index": index,
            "embedding": vector if request.encoding_format == "float" else _base64(vector),
        }
        for index, vector in sorted(vectors.items())
    ]
    tokens = sum(map(len, rendered))
    return {
        "object": "list",
        "model": request.model,
        "data": data,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _base64(vector: Sequence[float]) -> str:
    """Return the vector as base64 of little-endian float32, as OpenAI's clients read it."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
