"""The services that all handlers share: engine, models by name, a thread for work that would block the event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from backend.errors import TunesmithError
from backend.inference.model_source import ModelSource
from backend.inference.prompting import PromptRenderer
from backend.server.catalogue import Catalogue
from backend.server.engine import Engine
from backend.server.errors import INTERNAL, ApiError, to_api_error
from backend.server.jobs import Variant
from backend.server.metrics import Metrics
from backend.server.schemas import GenerationRequest

Result = TypeVar("Result")
_log = logging.getLogger("tunesmith.server")


@dataclass
class Service:
    """The parts of a running server. ``answer_seconds`` is the longest an answer may take."""

    engine: Engine
    catalogue: Catalogue
    metrics: Metrics
    answer_seconds: float
    instance: str
    version: str
    _worker: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "server-worker"))

    async def in_thread(self, work: Callable[[], Result], *, prompt: str = "messages") -> Result:
        """Return the result of ``work``, done in the worker thread; ``prompt`` is as in ``to_api_error``.

        Rendering, listing runs and compiling grammars take milliseconds to seconds, and the event loop writes the
        tokens of every other answer meanwhile. One thread is enough, and tokenizers need not be shared between two.
        Raises ApiError.
        """
        return await self.wait(self._worker.submit(work), prompt=prompt)

    async def wait(self, future: Future[Result], *, prompt: str = "messages") -> Result:
        """Return the result of a future of another thread. Raises ApiError."""
        try:
            return await asyncio.wrap_future(future)
        except TunesmithError as error:
            raise to_api_error(error, prompt=prompt) from error
        except (ApiError, asyncio.CancelledError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic in Rust code (tokenizers, llguidance) is no Exception
            _log.exception("a request failed")
            raise INTERNAL from error

    async def model(self, name: str) -> tuple[ModelSource, PromptRenderer]:
        """Resolve a model name to its source and prompt renderer, loading the base if needed. Raises ApiError."""
        source = await self.in_thread(lambda: self.catalogue.find(name))
        return source, await self.wait(self.engine.renderer(source))

    def close(self) -> None:
        """End the threads; requests that still wait fail with ``closed``."""
        self._worker.shutdown(cancel_futures=True)
        self.engine.close()


def variant_of(request: GenerationRequest, source: ModelSource) -> Variant:
    """Return the weights that answer. Raises ApiError for an adapter strength where there is no adapter."""
    if source.adapter is None:
        if request.adapter_strength != 1:
            raise ApiError(
                400,
                "adapter_strength: This model has no adapter that could be weaker or stronger.",
                code="bad_strength",
                param="adapter_strength",
            )
        return source, 1.0
    return source, request.adapter_strength
