"""What the site of the documentation changes in its pages; a hook of mkdocs, see mkdocs.yml.

Pages link to code and to files beside ``docs``, which the site does not hold: there the place is named instead. A
page that the list in mkdocs.yml lacks is added at its end. The theme's one script from elsewhere is left out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_OUTSIDE = re.compile(r"\[([^\]]*)\]\(\.\./([^)\s#]+)[^)\s]*\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Name the place of a file outside of ``docs`` instead of a link to it."""
    return _OUTSIDE.sub(lambda found: _named(found[1], found[2]), markdown)


def _named(words: str, place: str) -> str:
    return words if words.strip("`") == place else f"{words} (`{place}`)"


def on_config(config: Any, **_: Any) -> Any:
    """Append pages that nobody has put into the list."""
    listed = set(re.findall(r"[\w-]+\.md", str(config["nav"])))
    pages = sorted(path.name for path in Path(config["docs_dir"]).glob("*.md"))
    others = [name for name in pages if name not in listed]
    if others:
        config["nav"].append({"More": others})
    return config


def on_post_page(output: str, **_: Any) -> str:
    """Leave out the script that the theme fetches for pages opened as files; search then needs a server."""
    return re.sub(r'<script src="https?://[^"]*"></script>', "", output)


def on_post_template(output_content: str, **_: Any) -> str:
    """Do the same for pages that come from the theme, such as that of a wrong address."""
    return on_post_page(output_content)
