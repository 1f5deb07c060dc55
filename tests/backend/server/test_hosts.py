"""Which base models lie in memory: backend/server/hosts.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backend.errors import InferenceError
from backend.inference.model_source import ModelSource, find_model
from backend.inference.shared_base import KEEP
from backend.server.hosts import Hosts
from backend.server.metrics import Metrics
from tests.tiny import tiny_model_folder


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[ModelSource]:
    root = tmp_path_factory.mktemp("bases")
    return [find_model(tiny_model_folder(root / name)) for name in "abc"]


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    loaded = Hosts(2, Metrics())
    yield loaded
    loaded.close()


def at_work(hosts: Hosts, source: ModelSource) -> None:
    """Let a row be continued over ``source``."""
    busy: Any = SimpleNamespace(rows=[1])
    hosts.of(source).groups[source, 1.0] = [busy]


def test_a_base_is_loaded_once_and_the_one_used_last_is_kept_longest(
    hosts: Hosts, sources: list[ModelSource]
) -> None:
    a, b, c = sources
    first = hosts.of(a)
    hosts.of(b)
    assert hosts.of(a) is first
    hosts.of(c)
    assert list(hosts) == [a.base, c.base]


def test_other_weights_in_the_same_folder_are_another_base(hosts: Hosts, sources: list[ModelSource]) -> None:
    first = hosts.of(sources[0])
    assert hosts.at_hand(sources[0]) is first
    changed = replace(sources[0], base_marks=())
    assert hosts.at_hand(changed) is None


def test_a_base_at_work_makes_no_room(hosts: Hosts, sources: list[ModelSource]) -> None:
    a, b, c = sources
    at_work(hosts, a)
    at_work(hosts, b)
    assert not hosts.have_room((c, 1.0))
    with pytest.raises(InferenceError, match="at work"):
        hosts.of(c)
    hosts[b.base].groups.clear()
    assert hosts.have_room((c, 1.0))
    assert not hosts._idle(b.base)
    hosts.of(c)
    assert list(hosts) == [a.base, c.base]


def test_the_base_that_is_read_stays(hosts: Hosts, sources: list[ModelSource]) -> None:
    a, b, c = sources
    hosts.of(a)
    hosts.of(b)
    hosts.of(c, reading=a.base)
    assert list(hosts) == [a.base, c.base]


def test_a_variant_needs_room_beside_those_at_work(hosts: Hosts, sources: list[ModelSource]) -> None:
    host = hosts.of(sources[0])
    busy: Any = SimpleNamespace(rows=[1])
    for number in range(KEEP):
        host.groups[sources[0], float(number)] = [busy]
    assert not host.takes((sources[0], 99.0))
    assert host.takes((sources[0], 0.0))


def test_what_has_no_row_any_more_is_forgotten(hosts: Hosts, sources: list[ModelSource]) -> None:
    host = hosts.of(sources[0])
    done: Any = SimpleNamespace(rows=[])
    busy: Any = SimpleNamespace(rows=[1])
    host.groups = {(sources[0], 1.0): [done], (sources[0], 0.5): [done, busy]}
    host.tidy()
    assert host.groups == {(sources[0], 0.5): [busy]}


def test_closing_lets_go_of_all(hosts: Hosts, sources: list[ModelSource], tmp_path: Path) -> None:
    hosts.of(sources[0])
    hosts.close()
    assert not hosts
