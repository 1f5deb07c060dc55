"""Every limit is tried one below, at, and one above: what happens at its edge is decided here, as literals.

The guard below looks for every comparison with a constant in the rooms that manage, keep, serve and answer.
"""

from __future__ import annotations

import ast
import asyncio
import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock, create_autospec

import pytest
from starlette.requests import Request

from backend.errors import InferenceError, TunesmithError
from backend.inference import shared_base, token_view
from backend.inference.constraint import Constrainer, Constraint
from backend.inference.embedding import BATCH_TOKENS, batches
from backend.inference.shared_base import SharedBase
from backend.inference.token_view import view_tokens
from backend.inferencer import Inferencer
from backend.manager import ablation, attempts, bundle, explain, log_view
from backend.manager.ablation import pairs
from backend.manager.attempts import AttemptEvidence, detail_of, reason_of
from backend.manager.event_files import EventFolder, masked_crc32c
from backend.manager.log_view import LogTail, clean_lines
from backend.manager.planning.model_shape import read_shape
from backend.manager.preference_signs import FELL, preference_signs
from backend.manager.run_manager import RunManager
from backend.manager.system_manager import MIN_FREE_BYTES, DiskForecast
from backend.run.config import LONGEST_TEMPLATE
from backend.run.folder import RunDir
from backend.run.settings import parse_config, template_text
from backend.server.bases import ServedBase
from backend.server.errors import ApiError
from backend.server.guard import read_body
from backend.server.parsing import MAX_DEPTH as MAX_BODY_DEPTH
from backend.server.parsing import parse
from backend.server.schemas import ChatRequest, CompletionRequest
from backend.utils.config_utils import MAX_DEPTH, MAX_YAML_BYTES, parse_yaml
from backend.utils.file_utils import read_json, sweep_temporaries
from tests.house import ROOT, parsed
from tests.tiny import tiny_model, tiny_tokenizer

EVIDENCE = AttemptEvidence(
    has_outcome=False,
    returncode=1,
    forced=False,
    stopped_early=False,
    at_once=False,
    oom_kills=0,
    free_bytes=0,
)
NOISY = parse_config({"data": {"train": "rows.jsonl"}, "augmentation": {"typos": 0.01}})


def taken(call: Callable[[], object]) -> bool:
    """Whether a call comes through; False for an error of ours."""
    try:
        call()
    except (TunesmithError, ApiError):
        return False
    return True


def code_of(call: Callable[[], object]) -> str:
    """The code of the error of ours that a call ends with; "" if it comes through."""
    try:
        call()
    except (TunesmithError, ApiError) as error:
        return error.code
    return ""


def body_of(length: int, *, limit: int) -> tuple[bool, int]:
    """Whether a body of ``length`` bytes is taken where ``limit`` are allowed, and how much of it was read."""
    read = 0

    async def receive() -> dict[str, object]:
        nonlocal read
        read += 1
        return {"type": "http.request", "body": b"x", "more_body": read < length}

    headers = [(b"content-type", b"application/json"), (b"content-length", str(length).encode())]
    request = Request({"type": "http", "method": "POST", "headers": headers}, receive)
    fits = taken(lambda: asyncio.run(read_body(request, limit=limit, seconds=20)))
    return fits, read


def base_with(groups: int) -> ServedBase:
    base = ServedBase.__new__(ServedBase)
    base.groups = {(None, float(number)): [] for number in range(10, 10 + groups)}  # type: ignore[misc]
    return base


def mute() -> Mock:
    """A model that is asked in vain."""
    model: Mock = create_autospec(Inferencer, instance=True)
    model.answers.side_effect = InferenceError("It was asked.", remedy="", code="asked")
    return model


def event(length: int) -> bytes:
    """A record of TensorBoard with a message of ``length`` bytes, which says nothing."""
    head, message = struct.pack("<Q", length), b"\0" * length
    return head + struct.pack("<I", masked_crc32c(head)) + message + struct.pack("<I", masked_crc32c(message))


def noted(place: Path, length: int) -> bool:
    """Whether a record of this length is taken for damage."""
    (place / "x.tfevents").write_bytes(event(length))
    folder = EventFolder(place)
    folder.poll()
    return any("damaged" in note for note in folder.notes.values())


def sound_header(place: Path, length: int) -> bool:
    header = b"{}".ljust(length)
    (place / "config.json").write_text('{"hidden_size": 1}')
    (place / "model.safetensors").write_bytes(struct.pack("<Q", length) + header)
    return taken(lambda: read_shape(place))


def packed(place: Path, members: int) -> bool:
    """Whether a bundle of so many files can be opened again."""
    run = RunDir.create(place / f"{members}", "a", "seed: 1")
    run.checkpoint(1).mkdir(parents=True)
    there = 3  # the files above and the folder itself are members too
    for number in range(members - there):
        (run.checkpoint(1) / f"{number}").touch()
    out = bundle.write_bundle(run, place / f"{members}.tar.gz", checkpoints=True)

    def opened() -> None:
        with bundle.opened_bundle(out, place / "work"):
            pass

    return taken(opened)


def news(place: Path, size: int) -> int:
    """How many bytes of a log of ``size`` bytes, lines of one letter, the first look shows."""
    (place / "log").write_bytes(b"a\n" * (size // 2) + b"\n" * (size % 2))
    return sum(len(line) + 1 for line in LogTail(place / "log").poll().lines)


def saved(place: Path, runs: int) -> bool:
    """Whether the list of so many new runs is written down for the next start."""
    for _ in range(runs):
        RunDir.create(place / f"{runs}", "a", "seed: 1")
    before = set((place / f"{runs}").iterdir())
    RunManager(place / f"{runs}").list()
    return bool(set((place / f"{runs}").iterdir()) - before)


def flight(loss: float) -> bool:
    steps = [
        explain.FlightStep(step=n, loss=1.0, grad_norm=1.0, learning_rate=0.1, rows=(), memory_bytes=0)
        for n in range(5)
    ]
    return explain._suspect([*steps, replace(steps[0], step=5, loss=loss)]) is not None


def fell(rewards: float) -> bool:
    record = {"kind": "train", "step": 1, "train/rewards/chosen": rewards, "train/rewards/rejected": -5.0}
    return any("less likely" in sign for sign in preference_signs([record] * 20))


LIMITS: dict[str, tuple[Callable[[Path, int], object], int, tuple[object, object, object]]] = {
    "manager/ablation MAX_SEEDS": (
        lambda _, n: taken(lambda: list(pairs(NOISY, n, 5))),
        ablation.MAX_SEEDS,
        (True, True, False),
    ),
    "manager/ablation fewest seeds": (
        lambda _, n: taken(lambda: list(pairs(NOISY, n, 5))),
        2,
        (False, True, True),
    ),
    "manager/attempts NEARLY_FULL_BYTES": (
        lambda place, n: (
            reason_of(replace(EVIDENCE, free_bytes=n)),
            bool(detail_of(replace(EVIDENCE, free_bytes=n), place)),
        ),
        attempts.NEARLY_FULL_BYTES,
        (("disk-full", True), ("error", False), ("error", False)),
    ),
    "manager/event_files _LONGEST_RECORD_BYTES": (noted, 16, (False, False, True)),
    "manager/planning/model_shape MAX_HEADER_BYTES": (sound_header, 64, (True, True, False)),
    "manager/log_view VIEW_BYTES": (news, 64, (63, 64, 63)),
    "manager/log_view LONGEST_LINE": (
        lambda _, n: clean_lines(b"a" * n)[0].endswith("…"),
        log_view.LONGEST_LINE,
        (False, False, True),
    ),
    "manager/run_manager _WORTH_SAVING": (saved, 3, (False, True, True)),
    "manager/bundle MAX_MEMBERS": (packed, 5, (True, True, False)),
    "manager/explain SPIKE_FACTOR": (
        lambda _, n: flight(n / 1000),
        int(explain.SPIKE_FACTOR * 1000),
        (False, False, True),
    ),
    "manager/preference_signs FELL": (
        lambda _, n: fell(n / 1000),
        int(FELL * 1000),
        (True, False, False),
    ),
    "manager/system_manager MIN_FREE_BYTES": (
        lambda place, n: DiskForecast(place, n, 0).is_enough,
        MIN_FREE_BYTES,
        (False, True, True),
    ),
    "run/settings LONGEST_TEMPLATE": (
        lambda place, n: taken(lambda: template_text(str(file_of(place, "{{ x }}".ljust(n))))),
        LONGEST_TEMPLATE,
        (True, True, False),
    ),
    "utils/config_utils MAX_YAML_BYTES": (
        lambda _, n: taken(lambda: parse_yaml("a: " + "x" * (n - 3), where="x")),
        MAX_YAML_BYTES,
        (True, True, False),
    ),
    "utils/config_utils MAX_DEPTH": (
        lambda _, n: taken(lambda: parse_yaml("a: " + "[" * (n - 1) + "]" * (n - 1), where="x")),
        MAX_DEPTH,
        (True, True, False),
    ),
    "server/parsing MAX_DEPTH": (
        lambda _, n: (
            code_of(lambda: parse(ChatRequest, b'{"a":' + b"[" * (n - 1) + b"]" * (n - 1) + b"}"))
            == "too_deep"
        ),
        MAX_BODY_DEPTH,
        (False, False, True),
    ),
    "server/schemas MAX_TEXTS": (
        lambda _, n: taken(
            lambda: parse(CompletionRequest, json.dumps({"model": "m", "prompt": ["a"] * n}).encode())
        ),
        8,
        (True, True, False),
    ),
    "server/guard READ_AND_FORGET_BYTES": (lambda _, n: body_of(n, limit=4)[1], 16, (15, 16, 5)),
    "server/guard limit of a body": (lambda _, n: body_of(n, limit=9)[0], 9, (True, True, False)),
    "server/bases KEEP": (
        lambda _, n: base_with(n).takes((None, 1.0)),
        shared_base.KEEP,
        (True, False, False),
    ),
    "inference/token_view MAX_ANSWER_TOKENS": (
        lambda _, n: code_of(lambda: view_tokens(mute(), "a", max_new_tokens=n)),
        token_view.MAX_ANSWER_TOKENS,
        ("asked", "asked", "bad-sampling"),
    ),
    "inference/embedding BATCH_TOKENS": (
        lambda _, n: len(list(batches([1] * n, None))),
        BATCH_TOKENS,
        (1, 1, 2),
    ),
    "inference/shared_base MAX_STRENGTH": (
        lambda _, n: taken(lambda: SharedBase(tiny_model()).use(None, n / 100)),
        int(shared_base.MAX_STRENGTH * 100),
        (True, True, False),
    ),
}
SMALLER = {
    "server/guard READ_AND_FORGET_BYTES": 16,
    "server/schemas MAX_TEXTS": 8,
    "manager/event_files _LONGEST_RECORD_BYTES": 16,
    "manager/planning/model_shape MAX_HEADER_BYTES": 64,
    "manager/log_view VIEW_BYTES": 64,
    "manager/run_manager _WORTH_SAVING": 3,
    "manager/bundle MAX_MEMBERS": 5,
}
"""Limits that would cost too much to reach."""


def file_of(place: Path, text: str) -> Path:
    (place / "template.jinja").write_text(text, encoding="utf-8")
    return place / "template.jinja"


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_at_its_edge(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    happens, limit, expected = LIMITS[name]
    room, _, constant = name.partition(" ")
    for smaller in filter(None, [SMALLER.get(name)]):
        monkeypatch.setattr(f"backend.{room.replace('/', '.')}.{constant}", smaller)
    seen = []
    for number in (limit - 1, limit, limit + 1):
        place = tmp_path / f"at{number}"
        place.mkdir()
        seen.append(happens(place, number))
    assert tuple(seen) == expected


def test_a_json_file_of_the_longest_that_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps("a" * 8))
    read = [taken_from_disk(tmp_path / "x.json", limit) for limit in (9, 10, 11)]
    assert read == [False, True, True]


def taken_from_disk(path: Path, limit: int) -> bool:
    try:
        read_json(path, limit_bytes=limit)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(("minutes", "swept"), [(59, False), (61, True)])
def test_a_temporary_is_left_for_an_hour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minutes: int, swept: bool
) -> None:
    from backend.utils.file_utils import temporary_name

    left = temporary_name(tmp_path / "x")
    left.touch()
    now = left.stat().st_mtime
    monkeypatch.setattr("backend.utils.file_utils.time.time", lambda: now + 60 * minutes)
    assert (sweep_temporaries(tmp_path) == [left]) == swept


@pytest.mark.parametrize(
    ("constraint", "fits"),
    [
        (lambda limit: Constraint.choice(*["ab"] * limit), [True, True, False]),
        (lambda limit: Constraint.regex("a" * limit), [True, True, False]),
    ],
    ids=["texts", "characters"],
)
def test_a_form_of_the_greatest_size(
    monkeypatch: pytest.MonkeyPatch, constraint: Callable[[int], Constraint], fits: list[bool]
) -> None:
    monkeypatch.setattr("backend.inference.constraint.MAX_CHOICES", 4)
    monkeypatch.setattr("backend.inference.constraint.MAX_CHARACTERS", 8)
    limit = {"choice": 4, "regex": 8}[constraint(1).kind]
    forms = Constrainer(tiny_tokenizer(), 512, {1})
    assert [taken(lambda n=n: forms.matcher(constraint(n))) for n in (limit - 1, limit, limit + 1)] == fits


# --- the guard --------------------------------------------------------------------------------------------

ELSEWHERE = {
    "manager/event_files _HEADER_BYTES": "tests/backend/manager/test_event_files.py",
    "manager/planning/estimator TELLING_ROWS": "tests/backend/manager/planning/test_estimator.py",
    "manager/planning/estimator LIKE": "tests/backend/manager/planning/test_estimator.py",
    "manager/process_manager _AFTER_GRACE_SECONDS": "tests/backend/manager/test_process_manager.py",
    "manager/scalars _NUMBERS": "tests/backend/manager/test_scalars.py",
    "utils/unchanged _SETTLED_NS": "tests/backend/utils/test_unchanged.py",
    "run/reward_audit MOST_FLAT": "tests/backend/run/test_reward_audit.py",
    "manager/preference_signs SMALL_KL": "tests/backend/manager/test_preference_signs.py",
    "manager/preference_signs BY_HEART_LOSS": "tests/backend/manager/test_preference_signs.py",
    "manager/preference_signs BY_HEART_SHARE": "tests/backend/manager/test_preference_signs.py",
    "manager/ranks PEER_SECONDS": "tests/backend/manager/test_ranks.py",
    "manager/run_manager _CLOCK_TICK_NS": "tests/backend/manager/test_run_manager.py",
    "run/pace SILENCE_SECONDS": "tests/backend/run/test_pace.py",
    "server/embeddings MAX_TEXT_TOKENS": "tests/backend/server/test_embeddings.py",
    "server/inspection MAX_ANSWER_TOKENS": "tests/backend/server/test_inspection.py",
    "server/parsing _SHOWN_CHARACTERS": "tests/backend/server/test_parsing.py",
    "inference/loaded KEEP": "tests/backend/inference/test_loaded.py",
    "inference/engine_runner MIN_SHARED": "tests/backend/inference/test_engine_runner.py",
    "inference/runner MIN_SHARED": "tests/backend/inference/test_decoding.py",
    "inference/constraint MAX_CHARACTERS": "tests/test_limits.py",
    "inference/evals/patterns MAX_PATTERN_CHARACTERS": "tests/backend/inference/evals/test_patterns.py",
    "inference/evals/assertion MOST": "tests/backend/inference/evals/test_assertion.py",
    "inference/evals/json_text MAX_DEPTH": "tests/backend/inference/evals/test_json_text.py",
    "inference/evals/verdicts MAX_CHARACTERS": "tests/backend/inference/evals/test_verdicts.py",
    "inference/evals/python_check MAX_REPLY_BYTES": "tests/backend/inference/evals/test_python_check.py",
    "inference/evals/paired ALPHA": "tests/backend/inference/evals/test_paired.py",
    "inference/evals/sequential ALPHA": "tests/backend/inference/evals/test_sequential.py",
    "inference/constraint MAX_CHOICES": "tests/test_limits.py",
}
"""Limits of time and taste, whose edge is tried with their room: the test file."""


def compared(path: Path) -> Iterator[str]:
    """``room CONSTANT`` for each constant that a module compares something with."""
    room = str(path.relative_to(ROOT / "backend").with_suffix(""))
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Compare) and any(
            isinstance(sign, ast.Lt | ast.LtE | ast.Gt | ast.GtE) for sign in node.ops
        ):
            names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
            yield from (f"{room} {name}" for name in sorted(names) if name.isupper() and len(name) > 3)


ROOMS_WITH_LIMITS = ("manager", "run", "utils", "server", "inference")


def test_every_limit_of_what_manages_and_keeps_runs_is_tried() -> None:
    rooms = [path for folder in ROOMS_WITH_LIMITS for path in ROOT.glob(f"backend/{folder}/**/*.py")]
    found = {name for path in rooms for name in compared(path)}
    assert found - LIMITS.keys() - ELSEWHERE.keys() == set()
    assert len(found) > 15


def test_those_that_are_tried_elsewhere_are_there() -> None:
    assert [file for file in ELSEWHERE.values() if not (ROOT / file).is_file()] == []
