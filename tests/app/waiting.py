"""Pages that wait for a command of ours."""

from __future__ import annotations

from streamlit.testing.v1 import AppTest

from app.commands import Command, Commands, commands
from tests.eventually import eventually

PATIENCE_SECONDS = 120.0


def settled(app: AppTest) -> AppTest:
    """The page once no command is at work for it any more."""
    eventually(lambda: _answered(app), timeout_seconds=PATIENCE_SECONDS)
    return app


def at_work(kept: Commands) -> list[Command]:
    """The commands that have not answered yet."""
    return [command for command in [*kept._kept.values()] if command.answer is None]


def _answered(app: AppTest) -> bool:
    for command in at_work(commands()):
        command.wait(PATIENCE_SECONDS)
    app.run()
    return not at_work(commands())


def texts(app: AppTest) -> str:
    """Everything the page says."""
    kinds = (app.title, app.header, app.markdown, app.caption, app.text, app.error, app.info, app.success)
    kinds += (app.warning, app.code)
    return "\n".join(str(element.value) for kind in kinds for element in kind)


def press(app: AppTest, label: str) -> AppTest:
    """The page after the button with this label."""
    (button,) = [each for each in app.button if each.label == label]
    return settled(button.click().run())
