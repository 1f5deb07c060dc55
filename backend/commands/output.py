"""What every command prints with: a console for people, one JSON object for machines, one sentence for errors."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from backend.commands.phrases import error_text
from backend.errors import ConfigError, TunesmithError, UnsoundDataError
from backend.utils.text_utils import without_controls

NOTHING: Mapping[str, Any] = MappingProxyType({})
_CONTROLS_OF_JSON = re.compile(r"[\x7f-\x9f]")


def print_json(value: object) -> None:
    """One JSON object on standard output; numbers that are not finite become null.

    Control characters are written as escapes: JSON itself leaves U+007F to U+009F as they are, which terminals obey.
    """
    plain = _plain(value)
    text = json.dumps(plain, ensure_ascii=False, indent=2, allow_nan=False)
    if not _can_be_written(text):
        text = json.dumps(plain, indent=2, allow_nan=False)
    sys.stdout.write(_CONTROLS_OF_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")


def _can_be_written(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def make_writable() -> None:
    """Let every text be printed: what its encoding lacks becomes ``?``, and a closed output swallows all."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - as long as the process lives
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def say_to_nobody() -> None:
    """Give up standard output: its reader left, or what it leads to takes no more."""
    nobody = os.open(os.devnull, os.O_WRONLY)
    with contextlib.suppress(OSError, ValueError):  # tests give streams without a descriptor
        os.dup2(nobody, sys.stdout.fileno())
    os.close(nobody)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, str | bool | int) or value is None:
        return value
    if isinstance(value, float):
        return value if value - value == 0 else None
    return [_plain(part) for part in value] if isinstance(value, Iterable) else str(value)


def visible(text: str) -> str:
    """Return the text for a screen: line breaks and tabs stay, other control characters become ``·``.

    Runs, rows and models of strangers hold text, and in a terminal some text is a command. Everything that commands
    print goes through here.
    """
    return "\t".join(map(without_controls, text.split("\t")))


def say(text: str = "") -> None:
    """A line for a person, on standard output."""
    sys.stdout.write(visible(text) + "\n")


def say_on(text: str) -> None:
    """Print a piece of an answer: as it is to a file or a pipe, as ``visible`` on a screen."""
    sys.stdout.write(visible(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def report_error(error: TunesmithError, *, as_json: bool) -> int:
    """Show an error as one sentence (or JSON) and return the exit code it means."""
    if as_json:
        print_json({"error": error_record(error)})
    else:
        said = visible(error_text(error))
        sys.stderr.write(f"Error: {said}\n" if "\n" not in said else f"Errors:\n{said}\n")
    return error.exit_code


def error_record(error: TunesmithError) -> dict[str, Any]:
    """An error as plain values: code, message, remedy, and every problem of a configuration or of the data.

    ``next_step`` and what it is ``about`` are there where there is one.
    """
    record: dict[str, Any] = {"code": error.code, "message": error.message, "remedy": error.remedy}
    if error.next_step:
        record |= {"next_step": str(error.next_step), "about": error.about}
    if isinstance(error, (ConfigError, UnsoundDataError)):
        record["problems"] = [vars(problem) for problem in error.problems]
    return record
