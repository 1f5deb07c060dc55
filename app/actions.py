"""Actions behind buttons, and the message when one fails."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import streamlit as st

from app.phrases import what_to_do
from app.views.text import plain
from backend.errors import RunError, TunesmithError
from backend.manager import process_manager
from backend.run.folder import RunDir

_log = logging.getLogger(__name__)


@contextmanager
def show_errors() -> Iterator[None]:
    """Show an expected error as a message on the page, instead of a traceback."""
    try:
        yield
    except TunesmithError as error:
        remedy = what_to_do(error.remedy, error.next_step, error.about)
        st.error(f"{plain(error.message, 600)}  \n{plain(remedy, 600)}", icon=":material/error:")
    except OSError as error:  # a run deleted meanwhile, a full disk
        where = f"{error.filename}: " if error.filename else ""
        st.error(plain(f"{where}{error.strerror or error}.", 600), icon=":material/error:")


def stop_soon(run: RunDir, reason: str) -> None:
    """Ask a run to save and stop, and see to it in a background thread, so that the page does not wait.

    The request is a file in the run's folder, so it holds even if the studio ends meanwhile.
    """
    with suppress(OSError):  # a full disk; the thread then signals the trainer instead
        run.request_stop(reason)
    threading.Thread(target=_stop, args=(run, reason), name=f"stop {run.id}", daemon=True).start()


def _stop(run: RunDir, reason: str) -> None:
    try:
        process_manager.stop(run, reason=reason)
    except RunError as error:  # it had ended already, or it did not stop, which its page shows
        _log.info("%s", error)
