"""The base models in memory, what is decoded over each, and which of them makes room for another."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from backend.errors import InferenceError
from backend.inference.decoding import Decoding
from backend.inference.loaded import LoadedBase
from backend.inference.model_source import ModelSource
from backend.inference.shared_base import KEEP
from backend.server.jobs import Variant
from backend.server.metrics import Metrics

_log = logging.getLogger("tunesmith.server")


class Host(LoadedBase):
    """A loaded base, and the rows that are being continued, by what answers."""

    def __init__(self, source: ModelSource) -> None:
        super().__init__(source)
        self.groups: dict[Variant, list[Decoding]] = {}

    def takes(self, variant: Variant) -> bool:
        """Whether rows of ``variant`` may be continued now: its weights are kept, or there is room for them."""
        return variant in self.groups or len(self.groups) < KEEP

    def tidy(self) -> None:
        """Forget what has no row any more."""
        for variant, group in list(self.groups.items()):
            self.groups[variant] = left = [decoding for decoding in group if decoding.rows]
            if not left:
                del self.groups[variant]


class Hosts(dict[Path, Host]):
    """The loaded bases by their folder, the one used last at the end. One thread uses them."""

    def __init__(self, room: int, metrics: Metrics) -> None:
        super().__init__()
        self._room = room
        self._metrics = metrics

    def at_hand(self, source: ModelSource) -> Host | None:
        """Return the base of ``source`` where it is loaded; other weights in the same folder are another base."""
        host = self.get(source.base)
        return host if host is not None and host.marks == source.base_marks else None

    def have_room(self, variant: Variant) -> bool:
        """Whether ``variant`` could be answered now, if need be by loading its base."""
        source = variant[0]
        host = self.at_hand(source)
        if host is not None:
            return host.takes(variant)
        return source.base in (idle := self._idle(None)) or (
            source.base not in self and (len(self) < self._room or bool(idle))
        )

    def of(self, source: ModelSource, *, reading: Path | None = None) -> Host:
        """Return the base of ``source``, loaded now if need be; an idle one makes room, but not ``reading``.

        Raises InferenceError ``busy`` where none is idle, and what loading raises.
        """
        folder = source.base
        host = self.at_hand(source)
        if host is None:
            self._make_room(folder, reading)
            started = time.monotonic()
            host = Host(source)
            self._metrics.loads.inc()
            _log.info("loaded a base model in %.1f s", time.monotonic() - started)
        self.pop(folder, None)
        self[folder] = host
        return host

    def _make_room(self, folder: Path, reading: Path | None) -> None:
        """Let go of what lay in ``folder`` before, or of the base that was not used for longest."""
        if folder not in self and len(self) < self._room:
            return
        idle = self._idle(reading)
        leaving = folder if folder in self else next(iter(idle), None)
        if leaving not in idle:
            raise InferenceError("All loaded models are at work.", remedy="Try again soon.", code="busy")
        self.pop(leaving).close()

    def _idle(self, reading: Path | None) -> list[Path]:
        return [folder for folder, host in self.items() if not host.groups and folder != reading]

    def close(self) -> None:
        """Let go of all of them."""
        for host in self.values():
            host.close()
        self.clear()
