"""SIGTERM and SIGINT as a request to stop. Floor F0: standard library only, no domain word."""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType, TracebackType
from typing import Any


class StopSignals:
    """Inside its ``with`` block the first SIGTERM or SIGINT is noted in ``reason``; the second one leaves at once.

    ``reason`` is ``sigterm`` or ``sigint``, empty before. Only the main thread can be asked this way.
    """

    def __init__(self) -> None:
        self.reason = ""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(ValueError):  # only the main thread may set handlers
                self._before[number] = signal.signal(number, self._asked)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _asked(self, number: int, _: FrameType | None) -> None:
        if self.reason:
            os._exit(128 + number)
        self.reason = signal.Signals(number).name.lower()
