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
"""A tenth of Python's default: else a page that computes would delay every file that the browser requests."""
_POLL_SECONDS = 0.02
_PRELOADED = ("app.studio", "pyarrow", "app.run_bodies", "app.forms")


def main() -> None:
    """Serve until a signal comes."""
    collect_rarely()
    sys.setswitchinterval(SWITCH_SECONDS)
    import click  # noqa: PLC0415 - comes with Streamlit
    from streamlit.runtime.pages_manager import PagesManager  # noqa: PLC0415
    from streamlit.web.cli import main as streamlit  # noqa: PLC0415

    # Without this, the first address that is opened would run its page file alone, without the navigation.
    PagesManager.uses_pages_directory = False
    sys.argv = ["streamlit", "run", str(SERVER), *sys.argv[1:]]
    threading.Thread(target=_preload, name="preload", daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt, click.Abort):  # Ctrl-C is how it ends
        streamlit(standalone_mode=False)


def _preload() -> None:
    """Import the modules of the first pages once the server runs, while the browser is still connecting."""
    from streamlit import runtime  # noqa: PLC0415

    while not runtime.exists():
        time.sleep(_POLL_SECONDS)
    for name in _PRELOADED:
        importlib.import_module(name)
    gc.freeze()  # loaded modules stay, so the collector need not visit them


if __name__ == "__main__":
    main()
