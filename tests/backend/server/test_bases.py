"""Which base models lie in memory: backend/server/bases.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from backend.core.quantized import Quantization
from backend.errors import InferenceError
from backend.inference.model_source import ModelSource, find_model
from backend.inference.shared_base import KEEP
from backend.server.bases import BaseCache
from backend.server.metrics import Metrics
from tests.tiny import tiny_model_folder


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[ModelSource]:
    root = tmp_path_factory.mktemp("bases")
    return [find_model(tiny_model_folder(root / name)) for name in "abc"]


@pytest.fixture
def bases() -> Iterator[BaseCache]:
    loaded = BaseCache(2, Metrics())
    yield loaded
    loaded.close()


def at_work(bases: BaseCache, source: ModelSource) -> None:
    """Let a row be continued over ``source``."""
    busy: Any = SimpleNamespace(rows=[1])
    bases.load(source).groups[source, 1.0] = [busy]


def test_a_base_is_loaded_once_and_the_one_used_last_is_kept_longest(
    bases: BaseCache, sources: list[ModelSource]
) -> None:
    a, b, c = sources
    first = bases.load(a)
    bases.load(b)
    assert bases.load(a) is first
    bases.load(c)
    assert list(bases) == [a.base_key, c.base_key]


def test_other_weights_in_the_same_folder_are_another_base(
    bases: BaseCache, sources: list[ModelSource]
) -> None:
    first = bases.load(sources[0])
    assert bases.loaded(sources[0]) is first
    changed = replace(sources[0], base_marks=())
    assert bases.loaded(changed) is None


def test_a_base_at_work_makes_no_room(bases: BaseCache, sources: list[ModelSource]) -> None:
    a, b, c = sources
    at_work(bases, a)
    at_work(bases, b)
    assert not bases.has_room((c, 1.0))
    with pytest.raises(InferenceError, match="at work"):
        bases.load(c)
    bases[b.base_key].groups.clear()
    assert bases.has_room((c, 1.0))
    assert not bases._idle(b.base_key)
    bases.load(c)
    assert list(bases) == [a.base_key, c.base_key]


def test_the_base_that_is_read_stays(bases: BaseCache, sources: list[ModelSource]) -> None:
    a, b, c = sources
    bases.load(a)
    bases.load(b)
    bases.load(c, reading=a.base_key)
    assert list(bases) == [a.base_key, c.base_key]


def test_a_variant_needs_room_beside_those_at_work(bases: BaseCache, sources: list[ModelSource]) -> None:
    base = bases.load(sources[0])
    busy: Any = SimpleNamespace(rows=[1])
    for number in range(KEEP):
        base.groups[sources[0], float(number)] = [busy]
    assert not base.takes((sources[0], 99.0))
    assert base.takes((sources[0], 0.0))


def test_what_has_no_row_any_more_is_forgotten(bases: BaseCache, sources: list[ModelSource]) -> None:
    base = bases.load(sources[0])
    done: Any = SimpleNamespace(rows=[])
    busy: Any = SimpleNamespace(rows=[1])
    base.groups = {(sources[0], 1.0): [done], (sources[0], 0.5): [done, busy]}
    base.drop_finished()
    assert base.groups == {(sources[0], 0.5): [busy]}


def test_closing_lets_go_of_all(bases: BaseCache, sources: list[ModelSource], tmp_path: Path) -> None:
    bases.load(sources[0])
    bases.close()
    assert not bases


def test_a_base_in_4_bits_is_another_one_than_the_plain_base_in_its_folder(
    bases: BaseCache, sources: list[ModelSource]
) -> None:
    pytest.importorskip("bitsandbytes")
    stored = Quantization("nf4", nested=False, dtype=torch.float32)
    packed = replace(sources[0], quantization=stored)
    assert bases.load(sources[0]) is not bases.load(packed)
    assert list(bases) == [(sources[0].base, None), (sources[0].base, stored)]
