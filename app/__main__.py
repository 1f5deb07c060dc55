"""``python -m app``: the studio's server; ``tunesmith studio`` starts it, with Streamlit's own options."""

from __future__ import annotations

import sys
from pathlib import Path

MAIN = Path(__file__).with_name("main.py")


def main() -> None:
    """Serve until a signal comes."""
    from streamlit.runtime.pages_manager import PagesManager  # noqa: PLC0415
    from streamlit.web.cli import main as streamlit  # noqa: PLC0415

    # Else an address that is opened before any other would draw its file alone, without the navigation.
    PagesManager.uses_pages_directory = False
    sys.argv = ["streamlit", "run", str(MAIN), *sys.argv[1:]]
    streamlit()


if __name__ == "__main__":
    main()
