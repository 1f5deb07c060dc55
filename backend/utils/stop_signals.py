"""SIGTERM, SIGINT and SIGHUP as a request to stop."""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType, TracebackType
from typing import Any


class StopSignals:
    """Inside its ``with`` block the first signal is noted in ``reason``; a second SIGTERM or SIGINT leaves at once.

    ``reason`` is ``sigterm``, ``sigint`` or ``sighup``, empty before. SIGHUP says that the terminal was closed, often
    twice; under nohup it stays ignored. Only the main thread can be asked this way.
    """

    def __init__(self) -> None:
        self.reason = ""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        unheard = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        for number in (signal.SIGTERM, signal.SIGINT, *(() if unheard else (signal.SIGHUP,))):
            with contextlib.suppress(ValueError):  # only the main thread may set handlers
                self._before[number] = signal.signal(number, self._asked)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _asked(self, number: int, _: FrameType | None) -> None:
        name = signal.Signals(number).name.lower()
        if self.reason and "sighup" not in {self.reason, name}:
            os._exit(128 + number)
        if self.reason in {"", "sighup"}:
            self.reason = name
