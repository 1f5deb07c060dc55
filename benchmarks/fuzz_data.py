"""Reads 20,000 damaged files and checks that each gives rows or one plain sentence, within 2 seconds.

Sound files of every container are cut, flipped, doubled, spliced and given the endings of others. Anything but
rows or a ``DataError``, a crash of the process, or over 2 seconds of processor time is a failure; exits 1.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

FILES = 20_000
FILES_A_PROCESS = 500
MAX_SECONDS = 2.0
ROWS = [
    {"prompt": "What, now?\n\"yes\" 'no'", "completion": "007"},
    {"prompt": "ä € 😀 \\u00e9", "completion": '{"k": [1, 2.50, null, true]}'},
    {"prompt": "x" * 300, "completion": " NA "},
    {"prompt": "<|im_start|> a@b.org 4111 1111 1111 1111", "completion": "As an AI language model"},
] * 6
CHAT = [
    {
        "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 1}],
        "tools": "[]",
    },
    {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "q"}]},
            {"from": "gpt", "value": "a"},
        ]
    },
] * 6
BITS = [
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b"\n",
    b"\r",
    b"\0",
    b"\t",
    b";",
    b"\xff",
    b"\xed\xa0\x80",
    b"\\u",
    b"\\ud83d",
    b"1e999",
]


def make_seeds(folder: Path) -> list[tuple[str, bytes]]:
    from tests.backend.data.containers import CONTAINERS

    seeds = []
    for name, write in CONTAINERS.items():
        path = write(ROWS, folder / name)
        if path.is_file():
            seeds.append((name, path.read_bytes()))
    chats = ("rows.jsonl", "rows.json", "concatenated.json", "rows.jsonl.zst", "rows.zip")
    seeds += [(name, CONTAINERS[name](CHAT, folder / f"chat-{name}").read_bytes()) for name in chats]
    seeds.append(("rows.txt", "one\ntwo é\n\n".encode() * 20))
    seeds.append(("wide.csv", "prompt,completion\nä,b\n".encode("utf-16") * 2))
    return seeds


def damage(data: bytes, others: list[bytes], chance: random.Random) -> bytes:
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        at = chance.randrange(len(data) + 1)
        size = chance.choice((1, 2, 8, 64, len(data) // 2 + 1))
        kind = chance.randrange(7)
        if kind == 0:
            data = data[:at]
        elif kind == 1:
            data = (
                data[:at]
                + bytes(chance.randrange(256) for _ in range(min(size, 16)))
                + data[at + min(size, 16) :]
            )
        elif kind == 2:
            data = data[:at] + chance.choice(BITS) * chance.choice((1, 1, 3, 200)) + data[at:]
        elif kind == 3:
            data = data[:at] + data[at + size :]
        elif kind == 4:
            data = data[:at] + data[at : at + size] * chance.choice((2, 5)) + data[at + size :]
        elif kind == 5:
            other = chance.choice(others)
            data = data[:at] + other[chance.randrange(len(other)) :][:size]
        elif at < len(data):
            data = data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]
    return data


def read_one(path: Path) -> str:
    from backend.commands.data_report import table
    from backend.data.doctor import examine
    from backend.data.load import load_rows
    from backend.errors import DataError

    try:
        loaded = load_rows(path, max_rejected_share=1.0)
        report = examine(loaded, path.name)
        table(report)
        report.to_json().encode("utf-8")
    except DataError as error:
        str(error).encode("utf-8")
        return error.code
    return "rows"


def run_files(first: int, count: int) -> int:
    failures = 0
    slowest = 0.0
    kinds: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seeds = make_seeds(folder)
        for number in range(first, first + count):
            chance = random.Random(number)  # noqa: S311  # reproducible damage
            called, data = chance.choice(seeds)
            if chance.random() < 0.1:
                called = chance.choice(seeds)[0]
            path = folder / f"{number}-{called}"
            path.write_bytes(damage(data, [each for _, each in seeds], chance))
            print(f"file {number}", flush=True)
            began = time.process_time()
            try:
                kinds[read_one(path)] += 1
            except Exception:  # noqa: BLE001  # finding these is what this is for
                failures += 1
                print(f"FAILED {number} {called}\n{traceback.format_exc()}", flush=True)
            seconds = time.process_time() - began
            slowest = max(slowest, seconds)
            if seconds > MAX_SECONDS:
                failures += 1
                print(f"FAILED {number} {called}: {seconds:.1f} s", flush=True)
            path.unlink()
    print(f"result {failures} {slowest:.3f} {json.dumps(kinds)}")
    return failures


def main() -> int:
    failures, read, slowest = 0, 0, 0.0
    kinds: Counter[str] = Counter()
    for first in range(0, FILES, FILES_A_PROCESS):
        command = [sys.executable, __file__, str(first)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        *lines, last = done.stdout.splitlines() or [""]
        shown = [line for line in lines if not line.startswith("file ")]
        print("\n".join(shown), end="\n" if shown else "")
        if done.returncode or not last.startswith("result "):
            failures += 1
            print(f"the process ended with {done.returncode} at {last or first}\n{done.stderr[-2000:]}")
            continue
        _, failed, seconds, found = last.split(" ", 3)
        failures += int(failed)
        slowest = max(slowest, float(seconds))
        read += FILES_A_PROCESS
        kinds.update(json.loads(found))
    endings = ", ".join(f"{kind} {count:,}" for kind, count in kinds.most_common())
    print(f"{read:,} damaged files, {failures} failures, slowest {slowest:.2f} s; endings: {endings}")
    return int(failures > 0)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    if len(sys.argv) > 1:
        run_files(int(sys.argv[1]), FILES_A_PROCESS)
        sys.exit(0)
    sys.exit(main())
