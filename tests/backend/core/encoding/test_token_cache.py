"""Tokens are kept and mapped, never stale, checked and bounded: backend/core/encoding/token_cache.py."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.core.encoding import token_cache
from backend.core.encoding.row import encode_each
from backend.core.encoding.token_cache import ENCODING, TokenTable, key_of, load_cached, write_through
from backend.core.templates.template import set_end_tokens, set_template_time
from backend.core.tokenizer import Encoded
from backend.data.records import Row
from backend.errors import DataError
from tests.backend.chats import assistant, chat, user
from tests.logs import Logged
from tests.tiny import FAMILIES, tiny_tokenizer

ROWS = [Encoded([1, 2, 300], [False, True, True]), Encoded([7], [True]), Encoded([40_000, 5], [False, True])]
CHATML = tiny_tokenizer("chatml")
ROW = Row("r:1", ({"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}))


def tables(rows: Sequence[Encoded] = ROWS, at_a_time: int = 2) -> Iterator[TokenTable]:
    for start in range(0, len(rows), at_a_time):
        yield TokenTable.of(rows[start : start + at_a_time])


def plain(table: TokenTable | None) -> list[Encoded]:
    assert table is not None
    return [Encoded(ids.tolist(), trained.tolist()) for ids, trained in table]


def keep(key: str, folder: Path | None = None, rows: Sequence[Encoded] = ROWS) -> list[Encoded]:
    """Keep ``rows``; what was handed through."""
    return [row for table in write_through(key, tables(rows), folder) for row in plain(table)]


ANY_ROWS = st.lists(
    st.lists(st.tuples(st.integers(0, 2**31 - 1), st.booleans()), min_size=1).map(
        lambda row: Encoded([id_ for id_, _ in row], [trained for _, trained in row])
    ),
    min_size=1,
)


class TestTables:
    @given(ANY_ROWS, st.integers(0, 9), st.integers(0, 9))
    def test_rows_and_parts_are_those_of_a_list(self, rows: list[Encoded], start: int, stop: int) -> None:
        table = TokenTable.of(rows)
        assert plain(table) == rows
        assert plain(table[start:stop]) == rows[start:stop]
        assert table[start:stop].all_ids.tolist() == [
            id_ for row in rows[start:stop] for id_ in row.input_ids
        ]
        assert table[start:stop].all_trained.tolist() == [
            on for row in rows[start:stop] for on in row.trained
        ]
        assert table[-1][0].tolist() == rows[-1].input_ids

    def test_kinds(self) -> None:
        table = TokenTable.of(ROWS)
        assert (table.ids.dtype, table.trained.dtype, table.ends.dtype) == (np.int32, np.bool_, np.int64)
        assert len(TokenTable.of([])) == 0
        with pytest.raises(IndexError):
            table[3]


class TestKeeping:
    @given(ANY_ROWS)
    def test_whatever_is_kept_comes_back(
        self, tmp_path_factory: pytest.TempPathFactory, rows: list[Encoded]
    ) -> None:
        folder = tmp_path_factory.mktemp("tokens")
        assert load_cached("k", folder) is None
        assert keep("k", folder, rows) == rows
        assert plain(load_cached("k", folder)) == rows

    def test_parts_of_tables_are_kept_as_they_are(self, tmp_path: Path) -> None:
        parts = [TokenTable.of(ROWS)[1:], TokenTable.of(ROWS)[:1]]
        assert len(list(write_through("k", parts, tmp_path))) == 2
        assert plain(load_cached("k", tmp_path)) == [*ROWS[1:], ROWS[0]]

    def test_rows_are_mapped_and_cannot_be_changed(self, tmp_path: Path) -> None:
        keep("k", tmp_path)
        table = load_cached("k", tmp_path)
        assert table is not None
        with pytest.raises(ValueError, match="read-only"):
            table.ids[0] = 3

    def test_what_cannot_be_encoded_is_raised_and_nothing_is_kept(self, tmp_path: Path) -> None:
        def broken() -> Iterator[TokenTable]:
            yield TokenTable.of(ROWS)
            raise DataError("r:2 has no token to learn.", remedy="Mend it.", code="nothing-trained")

        with pytest.raises(DataError, match="no token to learn"):
            list(write_through("k", broken(), tmp_path))
        assert list(tmp_path.iterdir()) == []

    def test_nothing_is_kept_before_the_last_is_taken(self, tmp_path: Path) -> None:
        taken = write_through("k", tables(), tmp_path)
        assert plain(next(taken)) == ROWS[:2]
        assert plain(next(taken)) == ROWS[2:]
        assert load_cached("k", tmp_path) is None
        del taken
        assert list(tmp_path.iterdir()) == []

    def test_what_is_still_being_written_is_not_swept_away(self, tmp_path: Path) -> None:
        taken = write_through("k", tables(at_a_time=1), tmp_path)
        next(taken)
        (staging,) = tmp_path.iterdir()
        os.utime(staging, (0, 0))
        next(taken)
        keep("other", tmp_path)
        assert plain(next(taken)) == ROWS[2:]
        assert next(taken, None) is None
        assert plain(load_cached("k", tmp_path)) == ROWS

    def test_it_lies_beside_the_converted_models(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path))
        assert keep("k") == ROWS
        assert [path.name for path in (tmp_path / "tokens").iterdir()] == ["k"]
        assert plain(load_cached("k")) == ROWS


class TestDamage:
    @pytest.mark.parametrize("name", ["ids", "trained", "ends", "manifest.json"])
    @pytest.mark.parametrize("harm", ["flip", "cut", "gone"])
    def test_what_is_damaged_is_gone_and_can_be_made_again(
        self, tmp_path: Path, name: str, harm: str, logged: Logged
    ) -> None:
        keep("k", tmp_path)
        path = tmp_path / "k" / name
        whole = path.read_bytes()
        path.write_bytes({"flip": bytes([whole[0] ^ 1]) + whole[1:], "cut": whole[:-2], "gone": b""}[harm])
        assert load_cached("k", tmp_path) is None
        assert "made again" in logged.text
        assert keep("k", tmp_path) == ROWS
        assert path.read_bytes() == whole

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EEXIST])
    @pytest.mark.parametrize("deed", ["sweep_temporaries", "write_json_durably", "publish_folder"])
    def test_a_disk_that_refuses_costs_only_time(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, deed: str
    ) -> None:
        def refuse(*_: object) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(token_cache, deed, refuse)
        assert keep("k", tmp_path) == ROWS
        assert list(tmp_path.iterdir()) == []

    def test_a_disk_that_is_full_in_the_middle_loses_no_row(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: Logged
    ) -> None:
        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        taken = write_through("k", tables(at_a_time=1), tmp_path)
        found = plain(next(taken))
        monkeypatch.setattr(token_cache.os, "utime", full)
        assert found + [row for table in taken for row in plain(table)] == ROWS
        assert "not kept for the next start" in logged.text
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("deed", ["utime", "memmap", "remove"])
    def test_b10_an_entry_on_a_disk_that_refuses_costs_only_time(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deed: str
    ) -> None:
        """A hit whose time cannot be set, one that another process removes just now, a damaged one that stays."""

        def refuse(*_: object, **__: object) -> None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        keep("k", tmp_path)
        places: dict[str, tuple[object, str]] = {
            "utime": (token_cache.os, "utime"),
            "memmap": (np, "memmap"),
            "remove": (token_cache, "remove_folder"),
        }
        monkeypatch.setattr(*places[deed], refuse)
        (tmp_path / "k" / ("manifest.json" if deed == "remove" else "other")).write_text("{}")
        found = load_cached("k", tmp_path)
        assert (found is not None) is (deed == "utime")
        monkeypatch.undo()
        assert keep("k", tmp_path) == ROWS

    def test_rows_that_cannot_be_read_are_no_refusal_of_the_disk(self, tmp_path: Path) -> None:
        """An OSError of the rows' own must not end them early in silence."""

        def broken() -> Iterator[TokenTable]:
            yield TokenTable.of(ROWS[:1])
            raise OSError(errno.EIO, "the rows cannot be read")

        with pytest.raises(OSError, match="cannot be read"):
            list(write_through("k", broken(), tmp_path))
        assert list(tmp_path.iterdir()) == []

    def test_another_process_may_be_faster(self, tmp_path: Path, logged: Logged) -> None:
        def late() -> Iterator[TokenTable]:
            keep("k", tmp_path)
            yield from tables()

        assert [row for table in write_through("k", late(), tmp_path) for row in plain(table)] == ROWS
        assert [path.name for path in tmp_path.iterdir()] == ["k"]
        assert logged.text == ""


class TestRoom:
    def test_the_least_recently_used_goes_first_and_the_newest_stays(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for age, key in enumerate(("new", "used", "old")):
            keep(key, tmp_path)
            os.utime(tmp_path / key, (1e9 - age, 1e9 - age))
        assert load_cached("used", tmp_path)
        size = sum(path.stat().st_size for path in (tmp_path / "new").iterdir())
        monkeypatch.setattr(token_cache, "MAX_BYTES", 2 * size)
        keep("newest", tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {"newest", "used"}
        monkeypatch.setattr(token_cache, "MAX_BYTES", 1)
        keep("huge", tmp_path, ROWS * 50)
        assert {path.name for path in tmp_path.iterdir()} == {"huge"}


class TestKeys:
    def test_where_a_row_stands_does_not_matter(self) -> None:
        assert key_of([ROW], CHATML) == key_of([replace(ROW, place="other:7")], tiny_tokenizer("chatml"))

    @pytest.mark.parametrize(
        "rows",
        [
            [],
            [ROW, ROW],
            [replace(ROW, messages=ROW.messages[:1])],
            [replace(ROW, messages=({**ROW.messages[0], "content": "q "}, ROW.messages[1]))],
            [replace(ROW, messages=(ROW.messages[0], {**ROW.messages[1], "trained": False}))],
            [replace(ROW, tools="[]")],
            [replace(ROW, messages=(), text="q")],
            [replace(ROW, messages=(), segments=(("q", True),))],
            [replace(ROW, messages=(), input_ids=(1, 2), labels=(1, 2))],
            [replace(ROW, messages=(), input_ids=(1, 2), labels=(1, -100))],
        ],
    )
    def test_other_rows_have_another_key(self, rows: list[Row]) -> None:
        assert key_of(rows, CHATML) != key_of([ROW], CHATML)

    def test_another_template_tokenizer_or_token_has_another_key(self) -> None:
        changed, ended = tiny_tokenizer("chatml"), tiny_tokenizer("chatml")
        changed.chat_template = str(changed.chat_template).replace("Be brief", "Be long")
        ended.eos_token = "<|im_start|>"
        grown = tiny_tokenizer("chatml")
        grown.add_tokens(["extra"])
        stopped = tiny_tokenizer("chatml")
        set_end_tokens(stopped, [0])
        others = (changed, ended, grown, stopped, tiny_tokenizer("llama3"))
        assert len({key_of([ROW], each) for each in (CHATML, *others)}) == 6

    def test_a_template_that_prints_the_date_has_a_key_a_day(self) -> None:
        dated = tiny_tokenizer("chatml")
        dated.chat_template = "{{ strftime_now('%d') }}" + str(dated.chat_template)
        free = tiny_tokenizer("chatml")
        today = [key_of([ROW], each) for each in (free, dated)]
        for each in (free, dated):
            set_template_time(each, datetime(2099, 1, 1, tzinfo=UTC))
        tomorrow = [key_of([ROW], each) for each in (free, dated)]
        assert [one == other for one, other in zip(today, tomorrow, strict=True)] == [True, False]

    def test_a_template_that_prints_the_hour_has_a_key_an_hour(self) -> None:
        keys = []
        for layout in ("%d", "%H"):
            dated = tiny_tokenizer("chatml")
            dated.chat_template = f"{{{{ strftime_now('{layout}') }}}}{dated.chat_template}"
            for hour in (8, 8, 9):
                set_template_time(dated, datetime(2099, 1, 1, hour, tzinfo=UTC))
                keys.append(key_of([ROW], dated))
        assert [keys[0] == other for other in keys[:3]] == [True, True, True]
        assert [keys[3] == other for other in keys[3:]] == [True, True, False]

    def test_half_a_character_has_a_key(self) -> None:
        assert key_of([replace(ROW, messages=(), text="\ud800")], CHATML)


GOLDEN = {"1": "bf81247942af409b6e6db05b6a896045"}
"""What the rows below become, by the version of the encoding."""


def test_the_same_rows_become_the_same_tokens_or_the_encoding_has_another_version() -> None:
    """When this fails on purpose, raise ENCODING: entries made before would be taken for the new ones."""
    rows = [
        chat("r:1", "food pork", "meat", "and milk?", "dairy"),
        Row("r:2", (user("a"), {**assistant("b"), "trained": False}, user("c"), assistant("d"))),
        Row("r:4", text="two three\n\n    four"),
        Row("r:5", segments=(("question: x", False), (" answer: y", True))),
        Row("r:6", input_ids=(3, 4, 5), labels=(-100, 4, 5)),
    ]
    digest = hashlib.blake2b(digest_size=16)
    for family in sorted({*FAMILIES} - {"base"}):
        for encoded in encode_each(rows, tiny_tokenizer(family)):
            digest.update(repr((encoded.input_ids, encoded.trained)).encode())
    assert {ENCODING: digest.hexdigest()} == GOLDEN
