"""The parity certificate of an export: what was checked, what was found, and a light.

Each check has a finding in one sentence and is green, amber or red; the certificate has the worst of these lights.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from backend.utils.file_utils import sha256_file, write_json_durably, write_text_durably

CERTIFICATE = "certificate.json"
PAGE = "certificate.md"


class Light(StrEnum):
    """The verdict: green is as trained, amber needs a look or was not checked, red must not be used."""

    GREEN = "green"
    AMBER = "amber"
    RED = "red"


@dataclass(frozen=True)
class Check:
    """One thing that was checked; ``finding`` is a sentence for a person."""

    name: str
    light: Light
    finding: str


@dataclass(frozen=True)
class Certificate:
    """The export, its reader, and the findings of all checks."""

    run: str
    target: str
    precision: str
    reader: str
    rows: int
    checks: list[Check]
    figures: dict[str, Any]
    examples: list[dict[str, Any]]
    step: int | None = None
    """Of the checkpoint that was exported; None for the result of the run."""

    @property
    def light(self) -> Light:
        """The worst light of the checks; amber without checks."""
        order = list(Light)
        return max((check.light for check in self.checks), key=order.index, default=Light.AMBER)

    @property
    def reasons(self) -> list[str]:
        """The findings that are not green, red ones first."""
        bad = [check for check in self.checks if check.light != Light.GREEN]
        return [check.finding for check in sorted(bad, key=lambda check: check.light != Light.RED)]

    def write(self, folder: Path) -> None:
        """Write ``certificate.md`` for people and ``certificate.json`` for programs into ``folder``.

        It holds the SHA-256 of every file in ``folder``, at any depth: exactly these are certified.
        """
        write_text_durably(folder / PAGE, self.page())
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        files = {name: sha256_file(folder / name) for name in names}
        write_json_durably(
            folder / CERTIFICATE,
            {"light": self.light, "reasons": self.reasons, **asdict(self), "files": files},
        )

    def page(self) -> str:
        """Return the certificate as Markdown."""
        at = "" if self.step is None else f" at step {self.step}"
        what = f"Run `{self.run}`{at}, exported as {self.target} in {self.precision}"
        lines = [
            f"# Parity certificate: {self.light}",
            "",
            f"{what}, read by {self.reader or 'nobody'} over {self.rows} rows.",
            "",
            "| check | light | finding |",
            "|---|---|---|",
            *(f"| {check.name} | {check.light} | {_cell(check.finding)} |" for check in self.checks),
        ]
        if self.examples:
            lines += [
                "",
                "| row | expected | trained model | export | first difference |",
                "|---|---|---|---|---|",
            ]
            keys = ("place", "expected", "trained", "export", "difference")
            lines += [f"| {' | '.join(_cell(str(each[key])) for key in keys)} |" for each in self.examples]
        return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Return text escaped for a cell of a Markdown table: one line, no column marks."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ⏎ ").replace("<", "&lt;")
