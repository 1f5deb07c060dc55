"""Texts as vectors, by any model that is served."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from functools import partial
from typing import Any

from backend.inference.embedding import batches, embed_texts
from backend.server.answers import Service
from backend.server.errors import ApiError
from backend.server.schemas import EmbeddingRequest
from backend.server.wording import usage

MAX_TEXT_TOKENS = 2048
"""Longest text, in tokens: it is read at once, and the answers being written wait for it."""


async def embed(service: Service, request: EmbeddingRequest) -> dict[str, Any]:
    """One vector for each text, in order. Raises ApiError."""
    source, renderer = await service.model(request.model)
    rendered = await service.in_thread(
        lambda: [renderer.render_text(text) for text in request.texts], prompt="input"
    )
    for place, ids in enumerate(rendered):
        if len(ids) > MAX_TEXT_TOKENS:
            param = "input" if isinstance(request.input, str) else f"input.{place}"
            said = f"{param}: It has {len(ids)} tokens, and at most {MAX_TEXT_TOKENS} can be embedded."
            raise ApiError(400, said, code="text_too_long", param=param)
    vectors: dict[int, list[float]] = {}
    for batch in batches([len(ids) for ids in rendered], renderer.rope_border):
        texts = [rendered[place] for place in batch]
        work = service.engine.compute((source, 1.0), partial(embed_texts, texts=texts))
        made = await service.wait(work)
        vectors |= dict(zip(batch, made, strict=True))
    found = [
        {
            "object": "embedding",
            "index": place,
            "embedding": vector if request.encoding_format == "float" else _base64(vector),
        }
        for place, vector in sorted(vectors.items())
    ]
    cost = usage(sum(map(len, rendered)), 0)
    return {
        "object": "list",
        "model": request.model,
        "data": found,
        "usage": {name: cost[name] for name in ("prompt_tokens", "total_tokens")},
    }


def _base64(vector: Sequence[float]) -> str:
    """Little-endian float32, as OpenAI's clients read it."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
