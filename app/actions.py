"""What a button does, and how it is told when that did not work."""

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
def told() -> Iterator[None]:
    """Show what a person can mend as a message in place, instead of an exception."""
    try:
        yield
    except TunesmithError as error:
        remedy = what_to_do(error.remedy, error.next_step, error.about)
        st.error(f"{plain(error.message, 600)}  \n{plain(remedy, 600)}", icon=":material/error:")
    except OSError as error:  # a run that went away meanwhile, a disk that refuses
        where = f"{error.filename}: " if error.filename else ""
        st.error(plain(f"{where}{error.strerror or error}.", 600), icon=":material/error:")


def stop_soon(run: RunDir, reason: str) -> None:
    """Ask a run to save and stop, and see in the background that it does; the page need not wait.

    The request lies in the run's folder, so that it holds even when the studio ends meanwhile.
    """
    with suppress(OSError):  # a full disk: the stop below has another way to tell the trainer
        run.request_stop(reason)
    threading.Thread(target=_see_it_stop, args=(run, reason), name=f"stop {run.id}", daemon=True).start()


def _see_it_stop(run: RunDir, reason: str) -> None:
    try:
        process_manager.stop(run, reason=reason)
    except RunError as error:  # it was over before we looked, or lives on, which its page then shows
        _log.info("%s", error)
