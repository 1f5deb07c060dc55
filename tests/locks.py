"""Where the house takes a lock, and how a test sees that it is needed: two threads that must not meet inside."""

from __future__ import annotations

import ast
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from tests.house import parsed

FILE_LOCKS = frozenset(
    {"hold_lock", "hold_folder", "share_lock", "share_folder"}  # backend/utils/lock_utils.py
    | {"hold_for_reading", "hold_for_deleting", "hold_still"}  # those of a run, backend/run/locks.py
)


def lock_names(tree: ast.Module) -> set[str]:
    """The names under which a module keeps its thread locks."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and "Lock()" in ast.unparse(node.value):
            (target,) = node.targets
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=True))
            found |= {ast.unparse(name) for name, value in pairs if ast.unparse(value).endswith("Lock()")}
    return found


def locks_taken(path: Path) -> Iterator[tuple[int, str]]:
    """Each lock that a module takes for a block: its line and its expression."""
    names, source = lock_names(parsed(path)), path.read_text(encoding="utf-8")
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.With):
            for item in node.items:
                inner = [
                    ast.unparse(each) for each in ast.walk(item.context_expr) if isinstance(each, ast.expr)
                ]
                called = {text.split("(")[0].rpartition(".")[2] for text in inner if "(" in text}
                if names & {*inner} or FILE_LOCKS & called:
                    yield item.context_expr.lineno, ast.get_source_segment(source, item.context_expr) or ""


def both(first: Callable[[], Any], second: Callable[[], Any]) -> None:
    """Call the two at once, each in a thread of its own; an error of either is raised here."""
    begin = threading.Barrier(2)

    def called(each: Callable[[], Any]) -> None:
        begin.wait()
        each()

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(called, first), pool.submit(called, second)]:
            done.result()


def waits_for(lock: AbstractContextManager[Any], call: Callable[[], Any]) -> bool:
    """Return whether ``call``, in a thread of its own, waits as long as ``lock`` is held; it then runs to its end."""
    begun, done = threading.Event(), threading.Event()

    def called() -> None:
        begun.set()
        call()
        done.set()

    with ThreadPoolExecutor(1) as pool:
        with lock:
            ended = pool.submit(called)
            begun.wait(20)
            waited = not done.wait(0.1)
        ended.result()
    return waited


class Meeting:
    """Whether two threads were inside a function at the same time: each waits there a moment for another."""

    def __init__(self, patience_seconds: float = 0.2) -> None:
        self.happened = False
        self._patience_seconds = patience_seconds
        self._inside = threading.Barrier(2)

    def wait(self, *_: object, **__: object) -> None:
        """Wait for another thread; once nobody came, nobody waits any more."""
        with suppress(threading.BrokenBarrierError):
            self._inside.wait(self._patience_seconds)
            self.happened = True

    def within(self, real: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``real`` with a wait for another thread before it."""

        def watched(*args: Any, **kwargs: Any) -> Any:
            self.wait()
            return real(*args, **kwargs)

        return watched
