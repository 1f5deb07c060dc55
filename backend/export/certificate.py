"""The parity certificate of an export: the checks, their findings, and a light.

Each check has a finding in one sentence and is green, amber or red; the certificate has the worst of these lights.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from backend.run.root import CERTIFICATE
from backend.utils.file_utils import sha256_file, write_json_durably, write_text_durably

PAGE = "certificate.md"
"""The certificate for people; ``CERTIFICATE`` is the one for programs."""


class Light(StrEnum):
    """The verdict: green is as trained, amber needs a look or was not checked, red must not be used.

    Best first: ``Certificate.light`` takes the last of them that a check has.
    """

    GREEN = "green"
    AMBER = "amber"
    RED = "red"


@dataclass(frozen=True)
class Check:
    """The result of one check; ``finding`` is a sentence for people."""

    name: str
    light: Light
    finding: str


@dataclass(frozen=True)
class Certificate:
    """The checks of the export of ``run`` as ``target`` in ``precision``.

    ``reader`` is the library that read it back, "" if none did; ``rows`` is the number of rows in the comparison.
    ``figures`` are the measurements behind the checks. ``examples`` are rows with both answers, see ``page``.
    ``step`` is that of the exported checkpoint; None for the result of the run.
    """

    run: str
    target: str
    precision: str
    reader: str
    rows: int
    checks: list[Check]
    figures: dict[str, Any]
    examples: list[dict[str, Any]]
    step: int | None = None

    @property
    def light(self) -> Light:
        """The worst light of the checks; amber without checks."""
        order = list(Light)
        return max((check.light for check in self.checks), key=order.index, default=Light.AMBER)

    @property
    def reasons(self) -> list[str]:
        """The findings that are not green, red ones first."""
        not_green = [check for check in self.checks if check.light != Light.GREEN]
        return [check.finding for check in sorted(not_green, key=lambda check: check.light != Light.RED)]

    def write(self, folder: Path) -> None:
        """Write ``certificate.md`` for people and ``certificate.json`` for programs into ``folder``.

        ``certificate.json`` holds the SHA-256 of every other file in ``folder``, at any depth: exactly these are
        certified, so write it last. Raises OSError.
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
        step = "" if self.step is None else f" at step {self.step}"
        export = f"Run `{self.run}`{step}, exported as {self.target} in {self.precision}"
        lines = [
            f"# Parity certificate: {self.light}",
            "",
            f"{export}, read by {self.reader or 'nobody'} over {self.rows} rows.",
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
    """Return ``text`` on one line, with what Markdown would read as a column or as HTML escaped."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ⏎ ").replace("<", "&lt;")
