"""Handle SIGTERM, SIGINT and SIGHUP as requests to stop."""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType, TracebackType
from typing import Any


class StopSignals:
    """Context in which a first signal sets ``reason`` and a second SIGTERM or SIGINT exits at once.

    ``reason`` is ``sigterm``, ``sigint`` or ``sighup``, and empty before. SIGHUP (the terminal was closed) often
    comes twice, so it never exits; under nohup it stays ignored. Handlers are set in the main thread only.
    """

    def __init__(self) -> None:
        self.reason = ""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        for number in (signal.SIGTERM, signal.SIGINT, *(() if nohup else (signal.SIGHUP,))):
            with contextlib.suppress(ValueError):  # only the main thread may set handlers
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        name = signal.Signals(number).name.lower()
        if self.reason and "sighup" not in {self.reason, name}:
            os._exit(128 + number)
        if self.reason in {"", "sighup"}:
            self.reason = name
