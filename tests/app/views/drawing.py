"""A view drawn alone, without a page around it."""

from __future__ import annotations

from typing import Any

from streamlit.testing.v1 import AppTest


def drawn(name: str, *values: Any, **options: Any) -> AppTest:
    """What ``app.views.<name>`` (module and function) puts on a page for these values."""

    def script(name: str, values: tuple, options: dict) -> None:  # type: ignore[type-arg]
        import importlib

        module, _, function = name.partition(".")
        getattr(importlib.import_module(f"app.views.{module}"), function)(*values, **options)

    app = AppTest.from_function(script, kwargs={"name": name, "values": values, "options": options})
    return app.run(timeout=30)
