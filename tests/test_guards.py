"""What every other test relies on: the guards of conftest.py, and that tests are written so that they can fail."""

from __future__ import annotations

import ast
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import alive_since, living
from tests.environment import built
from tests.house import ROOT, TESTS, parsed
from tests.logs import Logged

ELSEWHERE = ("192.0.2.1", 9)  # TEST-NET-1 (RFC 5737): nobody's


def test_the_hub_is_offline() -> None:
    from huggingface_hub import constants

    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert constants.HF_HUB_OFFLINE


@pytest.mark.parametrize("reach", ["connect", "connect_ex"])
def test_another_machine_cannot_be_reached(reach: str) -> None:
    with socket.socket() as wire, pytest.raises(pytest.fail.Exception, match=r"192\.0\.2\.1"):
        getattr(wire, reach)(ELSEWHERE)


def test_loopback_can_be_reached() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as wire,
    ):
        assert wire.getpeername() == server.getsockname()


def test_a_thread_that_is_left_behind_is_seen() -> None:
    before, done = living(), threading.Event()
    thread = threading.Thread(target=done.wait, name="stray")
    thread.start()
    seen = alive_since(before, patience_seconds=0.01)
    done.set()
    thread.join()
    assert (seen, alive_since(before)) == (["stray"], [])


def test_a_child_that_is_left_behind_is_seen() -> None:
    before = living()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        seen = alive_since(before)
        child.communicate(b"\n")
    assert [str(child.pid) in line for line in seen] == [True]
    assert alive_since(before) == []


# --- the tests themselves ---------------------------------------------------------------------------------

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(path: Path) -> Iterator[Function]:
    return (node for node in ast.walk(parsed(path)) if isinstance(node, Function))


def all_tests() -> Iterator[tuple[str, Function]]:
    for path in TESTS:
        for node in functions(path):
            if node.name.startswith("test_") and path.name.startswith("test_"):
                yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node


def called(node: ast.AST) -> set[str]:
    """Names of everything that is called inside ``node``, without what stands before the last dot."""
    calls = (each.func for each in ast.walk(node) if isinstance(each, ast.Call))
    return {getattr(func, "attr", getattr(func, "id", "")) for func in calls}


@cache
def checking_helpers() -> frozenset[str]:
    """Functions of ours that check something, directly or through another."""
    helpers = {
        node.name: node for path in TESTS for node in functions(path) if not node.name.startswith("test_")
    }
    checking = {"raises", "fail", "warns"}  # pytest's own
    checking |= {
        name for name, node in helpers.items() if any(isinstance(each, ast.Assert) for each in ast.walk(node))
    }
    checking |= {name for name, node in helpers.items() if called(node) & checking}
    return frozenset(checking)


def checks(node: Function) -> bool:
    return any(name in checking_helpers() or name.startswith("assert_") for name in called(node))


def is_constant(node: ast.AST) -> bool:
    return isinstance(node, ast.Assert) and isinstance(node.test, ast.Constant)


class TestTests:
    def test_these_guards_see_the_tests(self) -> None:
        assert len(TESTS) > 60
        assert sum(1 for _ in all_tests()) > 500

    def test_no_branches(self) -> None:
        """An ``if`` in a test hides a case that is never checked."""
        branching = (ast.If, ast.Match)
        found = [
            place for place, node in all_tests() if any(isinstance(each, branching) for each in within(node))
        ]
        assert found == []

    def test_each_checks_something(self) -> None:
        found = [
            place
            for place, node in all_tests()
            if not any(isinstance(each, ast.Assert) for each in ast.walk(node)) and not checks(node)
        ]
        assert found == []

    def test_none_asserts_a_constant(self) -> None:
        found = [
            f"{path}:{node.lineno}" for path in TESTS for node in ast.walk(parsed(path)) if is_constant(node)
        ]
        assert found == []

    def test_none_waits_for_a_fixed_time(self) -> None:
        waiting = [
            str(path.relative_to(ROOT))
            for path in TESTS
            if path.name.startswith("test_")
            and any(ast.unparse(node.func) in {"time.sleep", "sleep"} for node in calls(path))
        ]
        assert waiting == []

    @pytest.mark.parametrize(
        ("source", "guard"),
        [
            ("def test_x():\n    if y:\n        assert z", "branch"),
            ("def test_x():\n    y()", "check"),
            ("def test_x():\n    assert True", "constant"),
        ],
    )
    def test_the_guards_bite(self, source: str, guard: str) -> None:
        (node,) = ast.parse(source).body
        assert isinstance(node, ast.FunctionDef)
        bites = {
            "branch": any(isinstance(each, ast.If) for each in within(node)),
            "check": not checks(node) and "assert" not in source,
            "constant": any(is_constant(each) for each in ast.walk(node)),
        }
        assert [name for name, bitten in bites.items() if bitten] == [guard]


def within(node: Function) -> Iterator[ast.AST]:
    """Everything in a test but the functions that it defines, such as a fake's."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, Function | ast.Lambda | ast.ClassDef):
            yield child
            yield from within(child)  # type: ignore[arg-type]


def calls(path: Path) -> Iterator[ast.Call]:
    return (node for node in ast.walk(parsed(path)) if isinstance(node, ast.Call))


def test_the_shell_of_a_person_decides_nothing() -> None:
    shell = {
        "PATH": "/bin",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "HOME": "/home/somebody",
        "http_proxy": "http://127.0.0.1:9",
        "NO_COLOR": "1",
        "FORCE_COLOR": "1",
        "TUNESMITH_SERVER_TOKEN": "secret",
        "HF_TOKEN": "secret",
        "RANK": "0",
        "WORLD_SIZE": "2",
        "TZ": "Pacific/Kiritimati",
        "LC_ALL": "C",
        "PYTHONUNBUFFERED": "1",
        "STREAMLIT_SERVER_PORT": "80",
    }
    assert built(shell, "/empty") == {
        "PATH": "/bin",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "OMP_WAIT_POLICY": "passive",
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "HOME": "/empty",
        "LANG": "C.UTF-8",
        "TERM": "xterm",
        "TZ": "UTC",
        "TUNESMITH_PROOFS": "0",
    }


def test_the_environment_of_the_tests_is_the_built_one() -> None:
    foreign = (
        "TUNESMITH",
        "HF_TOKEN",
        "RANK",
        "WORLD_SIZE",
        "NO_COLOR",
        "FORCE_COLOR",
        "LC_",
        "http_",
        "COLUMNS",
    )
    ours = built({}, "/empty")
    assert [name for name in os.environ if name.startswith(foreign) and name not in ours] == []
    assert (os.environ["TZ"], os.environ["CUDA_VISIBLE_DEVICES"]) == ("UTC", "")


def test_no_test_pays_for_logs_it_does_not_ask_for(request: pytest.FixtureRequest, logged: Logged) -> None:
    assert request.config.pluginmanager.get_plugin("logging-plugin") is None
    logging.getLogger("tunesmith.guards").info("said %d", 1)
    assert logged.text == "said 1\n"
