"""The base models in memory, what is decoded over each, and which of them is unloaded to make room for another."""

from __future__ import annotations

import logging
import time

from backend.errors import InferenceError
from backend.inference.decoding import Decoding
from backend.inference.loaded import LoadedBase
from backend.inference.model_source import BaseKey, ModelSource
from backend.inference.shared_base import KEEP
from backend.server.jobs import Variant
from backend.server.metrics import Metrics

_log = logging.getLogger("tunesmith.server")


class ServedBase(LoadedBase):
    """A loaded base and the decodings over it, grouped by the variant (adapter and strength) whose weights they use.

    At most ``shared_base.KEEP`` variants have a group at a time, which is how many merged adapters a SharedBase keeps
    in memory. Groups take turns at every token: with one group more than that, each turn would merge anew the adapter
    that the turn before has evicted, which takes far longer than the token.
    """

    def __init__(self, source: ModelSource, precision: str = "exact") -> None:
        super().__init__(source, precision=precision)
        self.groups: dict[Variant, list[Decoding]] = {}

    def takes(self, variant: Variant) -> bool:
        """Return whether rows of ``variant`` may be decoded now: it has a group, or there may be one more."""
        return variant in self.groups or len(self.groups) < KEEP

    def drop_finished(self) -> None:
        """Forget decodings without rows, and groups without decodings."""
        for variant, group in list(self.groups.items()):
            self.groups[variant] = left = [decoding for decoding in group if decoding.rows]
            if not left:
                del self.groups[variant]


class BaseCache(dict[BaseKey, ServedBase]):
    """At most ``limit`` loaded bases, least recently used first. Only the engine's thread changes it."""

    def __init__(self, limit: int, metrics: Metrics, precision: str = "exact") -> None:
        super().__init__()
        self._precision = precision
        self._limit = limit
        self._metrics = metrics

    def loaded(self, source: ModelSource) -> ServedBase | None:
        """Return the base of ``source`` if it is loaded; other weights in the same folder are another base."""
        base = self.get(source.base_key)
        return base if base is not None and base.marks == source.base_marks else None

    def has_room(self, variant: Variant) -> bool:
        """Return whether ``variant`` could be decoded now, if need be after loading its base."""
        source = variant[0]
        base = self.loaded(source)
        if base is not None:
            return base.takes(variant)
        idle = self._idle(None)
        # other weights in a folder can only take the place of those that were loaded from it
        key = source.base_key
        return key in idle or (key not in self and (len(self) < self._limit or bool(idle)))

    def load(self, source: ModelSource, *, reading: BaseKey | None = None) -> ServedBase:
        """Return the base of ``source``, loading it if needed; an idle base is unloaded for it, but not ``reading``.

        Raises InferenceError ``busy`` where none is idle, and what loading raises.
        """
        key = source.base_key
        base = self.loaded(source)
        if base is None:
            self._make_room(key, reading)
            started = time.monotonic()
            base = ServedBase(source, self._precision)
            self._metrics.loads.inc()
            _log.info("loaded a base model in %.1f s", time.monotonic() - started)
        self.pop(key, None)
        self[key] = base  # most recently used last
        return base

    def _make_room(self, key: BaseKey, reading: BaseKey | None) -> None:
        """Unload what was loaded under ``key`` before, or else the idle base that was not used for longest."""
        if key not in self and len(self) < self._limit:
            return
        idle = self._idle(reading)
        leaving = key if key in self else next(iter(idle), None)
        if leaving not in idle:
            raise InferenceError("All loaded models are at work.", remedy="Try again soon.", code="busy")
        self.pop(leaving).close()

    def _idle(self, reading: BaseKey | None) -> list[BaseKey]:
        """Return the bases that nothing is decoded over; the one whose prompt is being read has no group yet."""
        return [key for key, base in self.items() if not base.groups and key != reading]

    def close(self) -> None:
        """Unload all of them."""
        for base in self.values():
            base.close()
        self.clear()
