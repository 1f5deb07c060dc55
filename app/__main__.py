"""``python -m app``: the studio's server; ``tunesmith studio`` starts it, with Streamlit's own options."""

from __future__ import annotations

import contextlib
import gc
import importlib
import sys
import threading
import time
from pathlib import Path

from backend.utils.process_utils import collect_rarely

SERVER = Path(__file__).with_name("guarded.py")
SWITCH_SECONDS = 0.0005
"""A tenth of what is usual: a page that computes would hold up each file that a browser asks for meanwhile."""
_LOOK_SECONDS = 0.02
_WANTED_SOON = ("app.studio", "pyarrow", "app.run_bodies", "app.forms")


def main() -> None:
    """Serve until a signal comes."""
    collect_rarely()
    sys.setswitchinterval(SWITCH_SECONDS)
    import click  # noqa: PLC0415 - comes with Streamlit
    from streamlit.runtime.pages_manager import PagesManager  # noqa: PLC0415
    from streamlit.web.cli import main as streamlit  # noqa: PLC0415

    # Else an address that is opened before any other would draw its file alone, without the navigation.
    PagesManager.uses_pages_directory = False
    sys.argv = ["streamlit", "run", str(SERVER), *sys.argv[1:]]
    threading.Thread(target=_load_what_pages_want, name="load", daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt, click.Abort):  # Ctrl-C is how it ends
        streamlit(standalone_mode=False)


def _load_what_pages_want() -> None:
    """Load it once the server stands, while the browser is on its way; else the first pages would wait for it."""
    from streamlit import runtime  # noqa: PLC0415

    while not runtime.exists():
        time.sleep(_LOOK_SECONDS)
    for name in _WANTED_SOON:
        importlib.import_module(name)
    gc.freeze()  # what is loaded by now stays


if __name__ == "__main__":
    main()
