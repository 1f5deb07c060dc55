"""F02, F03: whatever a power cut leaves while a protocol runs is the old state or the new one, never half."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.crash_states import Step, crash_states
from tests.faults.protocols import NAIVE, PROTOCOLS, Protocol, examine


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.name)
def test_f03_no_state_is_bad(protocol: Protocol, tmp_path: Path) -> None:
    verdict = examine(protocol, tmp_path)
    assert verdict.states >= 3
    assert verdict.bad == ()


def test_f03_the_method_finds_bad_states_where_there_are_some(tmp_path: Path) -> None:
    verdict = examine(NAIVE, tmp_path)
    assert verdict.states > 50
    assert len(verdict.bad) > verdict.states // 2


def test_a_rename_without_fsync_of_the_file_can_leave_it_empty() -> None:
    steps = [Step("create", Path("a.tmp"), b"new"), Step("rename", Path("a.tmp"), target=Path("a"))]
    states = [tree for tree, _ in crash_states({Path("a"): b"old"}, steps)]
    assert {Path("a"): b""} in states
    assert {Path("a"): b"old"} in states


def test_a_folder_that_is_synced_keeps_its_names() -> None:
    steps = [Step("create", Path("a"), b"new"), Step("fsync", Path("a")), Step("fsync", Path())]
    assert [tree for tree, done in crash_states({}, steps) if done] == [{Path("a"): b"new"}]
