"""The list of planted faults stays plantable: each stands once in the code, and its tests exist."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants.faults import FAULTS, Fault
from tests.mutants.locks import NO_LOCK

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_can_be_planted(fault: Fault) -> None:
    assert (ROOT / fault.file).read_text(encoding="utf-8").count(fault.was) == 1
    assert fault.was != fault.becomes
    assert fault.tests
    assert [test for test in fault.tests if not (ROOT / test).is_file()] == []


def test_each_fault_has_a_name_of_its_own() -> None:
    names = [fault.name for fault in FAULTS]
    assert len(set(names)) == len(names) >= 39


def test_every_lock_of_the_house_is_taken_away_once() -> None:
    locks = [fault for fault in FAULTS if NO_LOCK in fault.becomes]
    assert len({(fault.file, fault.was) for fault in locks}) == len(locks) > 30
    assert {"backend/server/engine.py", "backend/manager/queue_manager.py", "app/commands.py"} <= {
        fault.file for fault in locks
    }
    assert [fault.name for fault in locks if NO_LOCK in fault.was] == []
