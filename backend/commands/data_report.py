"""The report of a data check as a table for a terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from backend.commands.phrases import with_flags
from backend.data.checks import Example, Level
from backend.data.doctor import Finding, Report
from backend.utils.text_utils import counted, without_controls

_COLOURS: dict[Level, str] = {"block": "red", "warn": "yellow", "info": "cyan"}
_WORDS: dict[Level, str] = {"block": "STOP", "warn": "LOOK", "info": "note"}


def table(report: Report) -> RenderableType:
    """Return the report for a terminal: a summary line, then a table of findings with harm, examples and fix."""
    stops = sum(finding.level == "block" for finding in report.findings)
    looks = sum(finding.level == "warn" for finding in report.findings)
    summary = Text(
        f"{report.source}: {report.rows:,} rows, {report.rejected:,} refused; "
        f"{counted(stops, 'finding')} that should stop a run, {looks} to look at.",
        style="bold red" if stops else "bold green",
    )
    lines: list[RenderableType] = [
        summary,
        Text(report.shape[:1].upper() + report.shape[1:] + ".", style="dim"),
    ]
    if report.findings:
        lines.append(_findings_table(report.findings))
    if report.not_run:
        reasons: dict[str, list[str]] = {}
        for slug, reason in report.not_run:
            reasons.setdefault(reason, []).append(slug)
        lines += [
            Text(f"Not checked ({reason}): {', '.join(slugs)}", style="dim")
            for reason, slugs in reasons.items()
        ]
    return Group(*lines)


def _findings_table(findings: tuple[Finding, ...]) -> Table:
    grid = Table(show_lines=True, expand=False)
    grid.add_column("")
    grid.add_column("what", ratio=3, overflow="fold")
    grid.add_column("rows", justify="right")
    grid.add_column("where, for example", ratio=4, overflow="fold")
    for finding in findings:
        what = Text(finding.title, style="bold")
        what.append(f"\n{with_flags(finding.harm)}", style="not bold")
        if finding.fix:
            unchosen = (
                "" if finding.fix_is_chosen else f" (not by itself: --only {finding.fix}, after a look)"
            )
            what.append(f"\nFix: {_fix(finding)}{unchosen}", style="not bold green")
        rows = f"{'about ' * finding.is_estimate}{finding.count:,}"
        rows += f"\n{finding.share:.1%}" if finding.share is not None else ""
        where = Text("\n").join(_where(example) for example in finding.examples)
        grid.add_row(Text(_WORDS[finding.level], style=f"bold {_COLOURS[finding.level]}"), what, rows, where)
    return grid


def _fix(finding: Finding) -> str:
    """Return the name of the fix, and how many rows it removes at most."""
    drops = str(finding.fix).startswith("drop-")
    return f"{finding.fix}, removes up to {counted(finding.count, 'row')}" if drops else str(finding.fix)


def _where(example: Example) -> Text:
    return Text.assemble((without_controls(example.place), "bold"), f"  {without_controls(example.detail)}")
