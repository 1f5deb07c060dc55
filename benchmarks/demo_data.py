"""How the demo data inside released packages of other tools is read here, beside what the tool itself means by it.

    make demo-data

The packages are fetched into a temporary folder and read from there; nothing of them is kept. What a tool means
comes from the package too: LLaMA-Factory's dataset_info.json, TRL's examples in its docstrings, the column names that
ms-swift's preprocessors list. Prints a table: file | what the tool means | how we read it. Exits 1 where rows are
read in another way than the tool reads them. Files that are refused are listed with the reason.
"""

from __future__ import annotations

import ast
import doctest
import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from backend.data.load import Loaded, load_rows
from backend.data.records import Message, Row
from backend.errors import DataError

PACKAGES = ("llamafactory==0.9.5", "axolotl==0.19.0", "trl==1.16.0", "ms-swift==4.6.0")
SHARED = {"human": "user", "gpt": "assistant", "observation": "tool", "function_call": "assistant"}

Said = list[tuple[str, str]]
"""Role and text of each message."""


@dataclass(frozen=True)
class Case:
    """A file of demo data: what the tool means by it in words, and how its rows should then be read."""

    path: Path
    means: str
    expected: Callable[[], list[Any]] | None
    read: Callable[[Row], Any]


def fetch(package: str, folder: Path) -> Path:
    """Return the unpacked source of a package."""
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:"]
    subprocess.run(
        [*pip, "--no-build-isolation", "-d", str(folder), package], check=True, capture_output=True
    )
    (packed,) = [path for path in folder.glob("*.tar.gz") if path.name.startswith(package[:2])]
    with tarfile.open(packed) as archive:
        archive.extractall(folder, filter="data")
    return folder / packed.name.removesuffix(".tar.gz")


def messages(row: Row) -> Said:
    """The messages of a row; a call of a tool as JSON."""
    return [_said(message) for message in row.messages]


def _said(message: Message) -> tuple[str, str]:
    calls = [call["function"] for call in message.get("tool_calls", ())]
    return message["role"], json.dumps(calls, sort_keys=True) if calls else str(message["content"])


def pair_of_answers(row: Row) -> tuple[Said, str, str]:
    """The prompt of a preference row, and its two answers."""
    return messages(row), str(row.chosen[-1]["content"]), str(row.rejected[-1]["content"])


def llama_factory(source: Path) -> Iterator[Case]:
    """The files of LLaMA-Factory, each as its dataset_info.json says."""
    folder = source / "data"
    info = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
    local = {each["file_name"]: each for each in info.values() if "file_name" in each}
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".jsonl", ".txt") and path.name != "dataset_info.json":
            yield _llama_factory(path, local.get(path.name))


def _llama_factory(path: Path, entry: Mapping[str, Any] | None) -> Case:
    columns = entry.get("columns", {}) if entry else {}
    if entry is None or {"images", "videos", "audios"} & columns.keys():
        other = (
            "chats with pictures, sound or film" if entry else "its second format: parts with type and value"
        )
        return Case(path, other, None, messages)
    if columns == {"prompt": "text"}:
        return Case(path, "plain texts", lambda: _texts(path), lambda row: row.text)
    if entry.get("formatting") != "sharegpt":
        return Case(
            path, "alpaca: instruction, input, output, system, history", lambda: _alpaca(path), messages
        )
    talk = columns["messages"]
    if entry.get("ranking"):
        expected = [
            (_shared(row[talk], row), row["chosen"]["value"], row["rejected"]["value"]) for row in _json(path)
        ]
        return Case(path, "two answers, ranked", lambda: expected, pair_of_answers)
    if "kto_tag" in columns:
        rated = [(_shared(row[talk], row), row[columns["kto_tag"]]) for row in _json(path)]
        return Case(path, "rated chats", lambda: rated, lambda row: (messages(row), row.label))
    return Case(path, "chats with tools", lambda: [_shared(row[talk], row) for row in _json(path)], messages)


def _json(path: Path) -> list[dict[str, Any]]:
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)


def _texts(path: Path) -> list[str]:
    if path.suffix == ".txt":
        return [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    return [row["text"] for row in _json(path)]


def _alpaca(path: Path) -> list[Said]:
    found = []
    for row in _json(path):
        asked = "\n".join(filter(None, (row["instruction"], row.get("input"))))
        before = [
            turn
            for pair in row.get("history") or ()
            for turn in zip(("user", "assistant"), pair, strict=True)
        ]
        system = [("system", row["system"])] if row.get("system") else []
        found.append([*system, *before, ("user", asked), ("assistant", row["output"])])
    return found


def _shared(turns: list[dict[str, Any]], row: Mapping[str, Any]) -> Said:
    said = [("system", row["system"])] if row.get("system") else []
    for turn in turns:
        role = turn.get("from", turn.get("role"))
        text = turn.get("value", turn.get("content"))
        if role == "function_call":
            call = json.loads(text)
            text = json.dumps(call if isinstance(call, list) else [call], sort_keys=True)
        said.append((SHARED.get(role, role), text))
    return said


def axolotl(source: Path) -> Iterator[Case]:
    """The fixtures of axolotl, by the types of its own tests: sharegpt, alpaca and already tokenised."""
    for path in sorted((source / "tests" / "fixtures").rglob("conversation*.json")):
        if "tokenized" in path.name:
            expected = [tuple(json.loads(path.read_text(encoding="utf-8"))["input_ids"])]
            yield Case(path, "token ids", lambda expected=expected: expected, lambda row: row.input_ids)
        else:
            row = json.loads(path.read_text(encoding="utf-8"))
            yield Case(path, "a chat", lambda row=row: [_shared(row["conversations"], {})], messages)
    path = source / "tests" / "fixtures" / "alpaca" / "alpaca.json"
    yield Case(path, "alpaca", lambda: _alpaca(path), messages)


def trl(source: Path, folder: Path) -> Iterator[Case]:
    """The examples in the docstrings of TRL's data tools, each as a file of one row."""
    tree = ast.parse((source / "trl" / "data_utils.py").read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for function in functions:
        for number, row in enumerate(_examples(ast.get_docstring(function) or "")):
            path = folder / f"trl-{function.name}-{number}.json"
            path.write_text(json.dumps([row]), encoding="utf-8")
            words = set(_words(row))
            yield Case(path, f"columns {', '.join(row)}", lambda words=words: [words], _all_words)


def _all_words(row: Row) -> set[str]:
    """All texts of a row; a prompt that both answers begin with is given once."""
    return {text for _, text in [*messages(row), *map(_said, (*row.chosen, *row.rejected))]}


def _examples(docstring: str) -> Iterator[dict[str, Any]]:
    for example in doctest.DocTestParser().get_examples(docstring):
        statement = ast.parse(example.source).body[0]
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Dict):
            try:
                row = ast.literal_eval(statement.value)
            except ValueError:
                continue
            if isinstance(row, dict) and not all(
                isinstance(value, list) and _is_column(value) for value in row.values()
            ):
                yield row


def _is_column(value: list[Any]) -> bool:
    """Whether a list is a column of a data set and no list of messages."""
    return not all(isinstance(item, dict) and ("role" in item or "from" in item) for item in value)


def _words(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        texts = [value[key] for key in ("content", "value") if key in value]
        yield from texts or [text for each in value.values() for text in _words(each)]
    elif isinstance(value, list):
        yield from (text for each in value for text in _words(each))


def ms_swift(source: Path, folder: Path) -> Iterator[Case]:
    """Rows of every pair of column names that ms-swift's preprocessor reads as question and answer."""
    tree = ast.parse((source / "swift" / "dataset" / "preprocessor" / "core.py").read_text(encoding="utf-8"))
    keys = {
        target.id: _literal(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name) and target.id in ("query_keys", "response_keys")
    }
    for query in keys["query_keys"]:
        for response in keys["response_keys"]:
            path = folder / f"swift-{query}-{response}.jsonl"
            rows = [
                {query: f"Is it {n}?", response: f"It is {n}.", "history": [["a", "b"]]} for n in range(3)
            ]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            before = [("user", "a"), ("assistant", "b")]
            said = [[*before, ("user", f"Is it {n}?"), ("assistant", f"It is {n}.")] for n in range(3)]
            yield Case(
                path, f"question {query}, answer {response}, history", lambda said=said: said, messages
            )


def _literal(node: ast.expr) -> list[str]:
    if isinstance(node, ast.BinOp):
        return _literal(node.left) + _literal(node.right)
    found: list[str] = ast.literal_eval(node)
    return found


def judged(case: Case) -> tuple[str, bool]:
    """How a file is read, in words, and whether that is as the tool means it."""
    try:
        loaded = load_rows(case.path, max_rejected_share=1.0)
    except DataError as error:
        return f"refused: {error.message} {error.remedy}", True
    how = loaded.reason.partition(" because")[0]
    if case.expected is None:
        return f"{how}, {len(loaded.rows)} rows (nothing to compare with)", True
    return _compared(case, loaded, how)


def _compared(case: Case, loaded: Loaded, how: str) -> tuple[str, bool]:
    expected = case.expected() if case.expected else []
    read = [case.read(row) for row in loaded.rows]
    wrong = sum(ours != theirs for ours, theirs in zip(read, expected, strict=False)) + abs(
        len(read) - len(expected)
    )
    return f"{how}, {len(read)} rows, " + (
        f"{wrong} DIFFERENT" if wrong else "as the tool reads them"
    ), not wrong


def main() -> int:
    right = True
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        sources = [fetch(package, folder) for package in PACKAGES]
        cases = {
            PACKAGES[0]: llama_factory(sources[0]),
            PACKAGES[1]: axolotl(sources[1]),
            PACKAGES[2]: trl(sources[2], folder),
            PACKAGES[3]: ms_swift(sources[3], folder),
        }
        for package, each in cases.items():
            print(f"\n{package}\n| file | what the tool means | how we read it |\n|---|---|---|", flush=True)
            for case in each:
                said, good = judged(case)
                right = right and good
                print(f"| {case.path.name} | {case.means} | {' '.join(said.split())[:240]} |", flush=True)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
