"""The one door to data: backend/data_pipeline.py."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backend.core.encoding.mixture import Mixture
from backend.data.records import Row
from backend.data.store import RowFile
from backend.data_pipeline import (
    Dataset,
    Prompts,
    encode,
    held_out_prompts,
    kind_of,
    load,
    load_prompts,
    prompts_of,
    questions,
    training_examples,
)
from backend.errors import DataError
from backend.run.config import AugmentationConfig, DataConfig, RunConfig
from backend.run.settings import parse_config
from tests.backend.chats import assistant, chat, user
from tests.runs import ROWS, settings, tree, write_rows
from tests.tiny import tiny_tokenizer

CHATML = tiny_tokenizer("chatml")
BASE = tiny_tokenizer("base")


def places(rows_file: Path, **changes: object) -> tuple[list[str], list[str]]:
    data = DataConfig.model_validate({"train": str(rows_file), **changes})
    dataset = load(data, seed=42)
    return [row.place for row in dataset.train], [row.place for row in dataset.validation]


class TestSkippedRows:
    def test_they_are_left_out_and_nothing_else_moves(self, rows_file: Path) -> None:
        train, held_out = places(rows_file)
        skipped = [train[0], train[3]]
        assert places(rows_file, skip_rows=skipped) == ([train[1], train[2], *train[4:]], held_out)

    @pytest.mark.parametrize("place", ["foods.jsonl:999", "other.jsonl:1", "1", ""])
    def test_an_unknown_place_is_named(self, rows_file: Path, place: str) -> None:
        with pytest.raises(DataError, match=f"data.skip_rows names {place}, which") as caught:
            places(rows_file, skip_rows=[place])
        assert caught.value.code == "unknown-place"

    def test_a_held_out_row_is_no_training_row(self, rows_file: Path) -> None:
        _, held_out = places(rows_file)
        with pytest.raises(DataError, match="held-out rows are not trained"):
            places(rows_file, skip_rows=held_out[:1])


class TestLoading:
    @staticmethod
    def table(rows: list[dict[str, str]], mark: str) -> str:
        return "".join(
            f"{a}{mark}{b}\n" for a, b in [("prompt", "completion"), *(row.values() for row in rows)]
        )

    FORMATS = {  # noqa: RUF012 - read only
        "rows.jsonl": lambda rows: "".join(json.dumps(row) + "\n" for row in rows),
        "rows.json": lambda rows: json.dumps(rows, indent=2),
        "rows.csv": lambda rows: TestLoading.table(rows, ","),
        "rows.tsv": lambda rows: TestLoading.table(rows, "\t"),
    }

    @pytest.mark.parametrize("name", FORMATS)
    def test_every_format_gives_the_same_rows_and_is_left_as_it_was(self, tmp_path: Path, name: str) -> None:
        rows = [{"prompt": f"question {number}", "completion": f"0{number}"} for number in range(20)]
        path = tmp_path / name
        path.write_text(self.FORMATS[name](rows))
        before = tree(tmp_path)
        dataset = load(DataConfig(train=str(path), validation=0), seed=1)
        said = [tuple(message["content"] for message in row.messages) for row in dataset.train]
        assert said == [(row["prompt"], row["completion"]) for row in rows]
        assert dataset.fingerprints == {str(path): hashlib.sha256(path.read_bytes()).hexdigest()}
        assert tree(tmp_path) == before
        assert dataset.reading

    def test_a_share_is_held_out_without_a_shared_prompt(self, rows_file: Path) -> None:
        train, held_out = places(rows_file, validation=0.3)
        dataset = load(DataConfig(train=str(rows_file), validation=0.3), seed=42)
        asked = [{row.messages[0]["content"] for row in side} for side in (dataset.train, dataset.validation)]
        assert len(train) + len(held_out) == len(ROWS)
        assert asked[0] & asked[1] == set()
        assert asked[1]

    @pytest.mark.parametrize(
        ("by", "side"), [("answer", lambda row: row["completion"]), ("document", lambda row: row["file"])]
    )
    def test_what_rows_share_can_be_chosen(
        self, tmp_path: Path, by: str, side: Callable[[dict[str, str]], str]
    ) -> None:
        rows = [{"prompt": f"{n}?", "completion": f"{n % 4}", "file": f"{n % 3}"} for n in range(24)]
        for name in "012":
            write_rows(tmp_path / f"{name}.jsonl", [row for row in rows if row["file"] == name])
        data = DataConfig.model_validate({"train": str(tmp_path), "validation": 0.3, "split_by": by})
        dataset = load(data, seed=1)
        by_prompt = {row["prompt"]: side(row) for row in rows}
        train, held_out = (
            {by_prompt[asked(row)] for row in part} for part in (dataset.train, dataset.validation)
        )
        assert train & held_out == set()
        assert train | held_out == set(by_prompt.values())
        assert held_out

    def test_the_seed_decides_which(self, rows_file: Path) -> None:
        data = DataConfig(train=str(rows_file), validation=0.4)
        sides = [tuple(row.place for row in load(data, seed=seed).validation) for seed in (1, 2, 3, 4, 1)]
        assert sides[0] == sides[4]
        assert len(set(sides)) > 1

    def test_a_file_of_its_own_is_held_out_whole(self, rows_file: Path, tmp_path: Path) -> None:
        held = write_rows(tmp_path / "held.jsonl", ROWS[:2])
        dataset = load(DataConfig(train=str(rows_file), validation=str(held)), seed=1)
        assert (len(dataset.train), len(dataset.validation)) == (len(ROWS), 2)
        assert list(dataset.fingerprints) == [str(rows_file), str(held)]

    def test_columns_of_other_names(self, tmp_path: Path) -> None:
        path = write_rows(tmp_path / "rows.jsonl", [{"left": "a", "right": "b"}])
        columns = {"prompt": "left", "completion": "right"}
        dataset = load(DataConfig(train=str(path), validation=0, columns=columns), seed=1)
        assert dataset.train[0].messages == (user("a"), assistant("b"))

    def test_some_bad_rows_are_put_up_with_and_named(self, tmp_path: Path) -> None:
        path = write_rows(tmp_path / "rows.jsonl", [*ROWS, {"prompt": "x"}])
        data = DataConfig(train=str(path), validation=0)
        with pytest.raises(DataError, match=r"rows\.jsonl:19") as caught:
            load(data, seed=1)
        assert caught.value.code == "rejected-rows"
        dataset = load(data.model_copy(update={"max_rejected_share": 0.1}), seed=1)
        assert [item.place for item in dataset.rejected] == ["rows.jsonl:19"]
        assert len(dataset.train) == len(ROWS)

    def test_bad_held_out_rows_are_named_too(self, tmp_path: Path) -> None:
        train = write_rows(tmp_path / "rows.jsonl", ROWS)
        held_out = write_rows(tmp_path / "held.jsonl", [*ROWS, {"prompt": "x"}])
        data = DataConfig(train=str(train), validation=str(held_out), max_rejected_share=0.1)
        assert [item.place for item in load(data, seed=1).rejected] == ["held.jsonl:19"]


class TestManyRows:
    """Rows that are mapped from a file are the rows that are held in memory."""

    @pytest.mark.parametrize(
        ("options", "added"),
        [
            ({"validation": 0.3}, {}),
            ({"validation": 0, "skip_rows": ["rows.jsonl:3"]}, {"oversample": 2.5}),
            ({"validation": 0}, {"paraphrases": "review.jsonl"}),
        ],
    )
    def test_they_are_the_same(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        options: dict[str, Any],
        added: dict[str, Any],
    ) -> None:
        proposal = {
            "place": "rows.jsonl:5",
            "before": ROWS[4]["prompt"],
            "after": "reworded",
            "accepted": True,
        }
        write_rows(tmp_path / "review.jsonl", [proposal])
        monkeypatch.chdir(write_rows(tmp_path / "rows.jsonl").parent)
        data = DataConfig.model_validate({"train": "rows.jsonl", **options})

        def read() -> tuple[Any, ...]:
            dataset = load(data, seed=1, augmentation=AugmentationConfig(**added))
            tokens = [each.input_ids.tolist() for each in encode(dataset.train, CHATML, data)]
            rows = list(dataset.train), list(dataset.validation)
            return *rows, dataset.reading, dataset.fingerprints, dataset.trained_questions(), tokens

        few = read()
        monkeypatch.setattr("backend.data.store.IN_MEMORY_BYTES", 0)
        assert read() == few
        assert isinstance(load(data, seed=1).train, RowFile)


class TestHowItIsRead:
    @pytest.mark.parametrize(
        ("name", "content", "options", "said"),
        [
            (
                "a.csv",
                "prompt,completion\nwo?,K\u00fcche\n".encode("cp1252"),
                {"encoding": "cp1252"},
                ["wo?", "K\u00fcche"],
            ),
            ("a.csv", b"prompt;completion\na,b;c\n", {"delimiter": ";"}, ["a,b", "c"]),
            ("a.csv", b"prompt:completion\na,b:c\n", {"delimiter": ":"}, ["a,b", "c"]),
        ],
    )
    def test_where_the_file_does_not_say(
        self, tmp_path: Path, name: str, content: bytes, options: dict[str, Any], said: list[str]
    ) -> None:
        (tmp_path / name).write_bytes(content)
        data = DataConfig.model_validate({"train": str(tmp_path / name), "validation": 0, **options})
        (row,) = load(data, seed=1).train
        assert [message["content"] for message in row.messages] == said

    def test_a_text_file_as_one_row(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("one\ntwo\n")
        data = DataConfig(train=str(tmp_path / "a.txt"), validation=0, whole_file=True)
        assert [row.text for row in load(data, seed=1).train] == ["one\ntwo\n"]

    def test_a_sheet_of_a_workbook(self, tmp_path: Path) -> None:
        openpyxl = pytest.importorskip("openpyxl")
        book = openpyxl.Workbook()
        for title, answer in (("First", "x"), ("Second", "y")):
            sheet = book.create_sheet(title)
            sheet.append(["prompt", "completion"])
            sheet.append(["q", answer])
        book.save(tmp_path / "a.xlsx")
        data = DataConfig(train=str(tmp_path / "a.xlsx"), validation=0, sheet="Second")
        assert [row.messages[1]["content"] for row in load(data, seed=1).train] == ["y"]


class TestChanged:
    def test_data_that_is_not_what_was_checked_is_refused_with_both_sums(self, tmp_path: Path) -> None:
        file, held = write_rows(tmp_path / "rows.jsonl"), write_rows(tmp_path / "held.jsonl", ROWS[:3])
        data = DataConfig(train=str(file), validation=str(held))
        checked = load(data, seed=1).fingerprints
        pinned = data.model_copy(update={"sha256": checked})
        assert load(pinned, seed=1).fingerprints == checked
        for path in (held, file):
            path.write_text(path.read_text() + json.dumps(ROWS[0]) + "\n")
            with pytest.raises(DataError) as caught:
                load(pinned, seed=1)
            now = hashlib.sha256(path.read_bytes()).hexdigest()
            assert caught.value.code == "data-changed"
            assert str(path) in caught.value.message
            assert checked[str(path)][:16] in caught.value.message
            assert now[:16] in caught.value.message


class TestAddedRows:
    """Repeats and paraphrases are training rows; what is held out never changes."""

    @staticmethod
    def loaded(rows_file: Path, **augmentation: object) -> Dataset:
        wanted = AugmentationConfig.model_validate(augmentation)
        return load(DataConfig(train=str(rows_file), validation=0.3), seed=42, augmentation=wanted)

    def test_off_is_the_rows_as_they_are(self, rows_file: Path) -> None:
        plain = load(DataConfig(train=str(rows_file), validation=0.3), seed=42)
        assert self.loaded(rows_file) == plain

    def test_repeats_follow_the_training_rows_only(self, rows_file: Path) -> None:
        plain, more = self.loaded(rows_file), self.loaded(rows_file, oversample=3.0)
        assert more.validation == plain.validation
        assert list(more.train[: len(plain.train)]) == list(plain.train)
        counts = Counter(row.messages[1]["content"] for row in more.train)
        before = Counter(row.messages[1]["content"] for row in plain.train)
        most = max(before.values())
        assert counts == {answer: min(most, 3 * count) for answer, count in before.items()}

    def test_accepted_paraphrases_follow_and_ask_nothing_that_is_held_out(
        self, rows_file: Path, tmp_path: Path
    ) -> None:
        plain = self.loaded(rows_file)
        first, second, held = plain.train[0], plain.train[1], plain.validation[0]
        lines = [
            {"place": first.place, "before": asked(first), "after": "reworded", "accepted": True},
            {"place": second.place, "before": asked(second), "after": asked(held), "accepted": True},
            {"place": second.place, "before": asked(second), "after": "not wanted", "accepted": False},
        ]
        review = write_rows(tmp_path / "review.jsonl", lines)
        more = self.loaded(rows_file, paraphrases=str(review))
        assert more.validation == plain.validation
        assert [asked(row) for row in more.train[len(plain.train) :]] == ["reworded"]
        assert more.train[-1].place == f"{first.place}#paraphrase"
        assert list(more.fingerprints) == [str(rows_file), str(review)]
        write_rows(review, lines[:1])
        pinned = DataConfig(train=str(rows_file), validation=0.3, sha256=more.fingerprints)
        with pytest.raises(DataError, match="changed since it was checked"):
            load(pinned, seed=42, augmentation=AugmentationConfig(paraphrases=str(review)))

    def test_a_review_file_that_is_none(self, rows_file: Path, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="not a reviewed paraphrase") as caught:
            self.loaded(rows_file, paraphrases=str(write_rows(tmp_path / "rows.jsonl")))
        assert caught.value.code == "bad-review"


def asked(row: Row) -> str:
    return str(row.messages[0]["content"])


class TestQuestions:
    def test_the_prompt_is_everything_before_the_last_answer(self) -> None:
        (asked,) = questions([chat("r:1", "a", "b", "c", "d")], CHATML)
        own = CHATML.apply_chat_template([user("a"), assistant("b"), user("c")], add_generation_prompt=True)
        assert (asked.row, asked.prompt, asked.expected) == ("r:1", "c", "d")
        assert list(asked.prompt_ids) == own["input_ids"]

    def test_without_a_template(self) -> None:
        (asked,) = questions([chat("r:1", "hello", " world")], BASE)
        assert BASE.decode(list(asked.prompt_ids)) == "hello"
        assert asked.expected == " world"

    @pytest.mark.parametrize(
        "row",
        [
            Row("r:1", text="plain"),
            Row("r:1", messages=(user("x"),)),
            Row("r:1", messages=(assistant("x"),)),
            Row("r:1", input_ids=(1, 2), labels=(1, 2)),
        ],
    )
    def test_rows_that_ask_nothing_are_left_out(self, row: Row) -> None:
        assert questions([row], CHATML) == []


class TestPrompts:
    def test_a_line_each(self, tmp_path: Path) -> None:
        path = tmp_path / "asked.txt"
        path.write_bytes(b"\xef\xbb\xbffirst\n\n  \nsecond \xc3\xa9\n")
        assert load_prompts(path) == [("asked.txt:1", "first", ""), ("asked.txt:4", "second é", "")]

    def test_whole_rows_bring_their_answer(self, tmp_path: Path) -> None:
        path = write_rows(tmp_path / "asked.jsonl", [{"prompt": "a", "completion": "b"}])
        assert load_prompts(path) == [("asked.jsonl:1", [user("a")], "b")]

    def test_prompts_alone(self, tmp_path: Path) -> None:
        path = write_rows(tmp_path / "asked.jsonl", [{"prompt": "a"}, {"prompt": "b"}])
        assert load_prompts(path) == [("asked.jsonl:1", [user("a")], ""), ("asked.jsonl:2", [user("b")], "")]

    def test_plain_text_rows(self, tmp_path: Path) -> None:
        path = write_rows(tmp_path / "asked.jsonl", [{"text": "a"}])
        assert load_prompts(path) == [("asked.jsonl:1", "a", "")]

    @pytest.mark.parametrize("name", ["nowhere.txt", "latin.txt", "nowhere.jsonl", "empty.jsonl"])
    def test_what_cannot_be_read_is_named(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "latin.txt").write_bytes(b"K\xfcche")
        (tmp_path / "empty.jsonl").write_text("")
        with pytest.raises(DataError, match=name) as caught:
            load_prompts(tmp_path / name)
        assert caught.value.remedy

    def test_the_held_out_rows_are_the_trainers(self, rows_file: Path) -> None:
        config = parse_config(settings(Path("model"), rows_file, {"data.validation": 0.3, "seed": 7}))
        held_out = load(config.data, seed=7).validation
        assert [place for place, _, _ in held_out_prompts(config)] == [row.place for row in held_out]
        assert {answer for _, _, answer in held_out_prompts(config)} <= {row["completion"] for row in ROWS}


class TestContinuedPretraining:
    @pytest.fixture
    def book(self, tmp_path: Path) -> Path:
        (tmp_path / "book.txt").write_text("one two three " * 40, encoding="utf-8")
        return tmp_path / "book.txt"

    @staticmethod
    def config(train: Path, method: str = "cpt", **data: Any) -> RunConfig:
        fixed = {"train": str(train), "validation": 0, "max_length": 64, "whole_file": True}
        return parse_config({"data": fixed | data, "objective": {"method": method}})

    def test_a_file_is_a_document_whose_pieces_keep_all_of_it(self, book: Path) -> None:
        config = self.config(book)
        rows = training_examples(load(config.data, seed=1), BASE, config)
        whole = BASE.backend_tokenizer.encode(book.read_text(), add_special_tokens=False).ids
        assert rows.trained_tokens == len(whole)  # without the first one, with the end
        assert [each.row for each in rows][-1] == f"book.txt:1 (piece {len(rows)})"
        with pytest.raises(DataError, match="longer than 64 tokens"):
            training_examples(load(config.data, seed=1), BASE, self.config(book, "sft"))

    def test_conversations_are_refused_with_a_way_to_use_them(self, rows_file: Path) -> None:
        config = self.config(rows_file)
        with pytest.raises(
            DataError, match=r"foods\.jsonl:1 is an answer to a prompt, from which the method cpt"
        ) as caught:
            training_examples(load(config.data, seed=1), CHATML, config)
        assert caught.value.code == "wrong-rows"
        assert "data.mix" in caught.value.remedy

    @pytest.mark.parametrize(
        ("rows", "kind"),
        [
            ([{"prompt": "q", "chosen": "a", "rejected": "b"}], "preference"),
            ([{"prompt": "q", "completion": "a"}] * 3, "chat"),
            ([{"text": "t"}], "text"),
        ],
    )
    def test_the_kind_of_rows_is_told_from_the_first(
        self, tmp_path: Path, rows: list[dict[str, str]], kind: str
    ) -> None:
        assert kind_of(DataConfig(train=str(write_rows(tmp_path / "rows.jsonl", rows)))) == kind

    @pytest.mark.parametrize("method", ["cpt", "sft"])
    def test_a_share_of_other_rows_is_mixed_in(self, book: Path, rows_file: Path, method: str) -> None:
        config = self.config(
            book, method, mix=str(rows_file), mix_share=0.5, max_length=256 if method == "sft" else 64
        )
        dataset = load(config.data, seed=1)
        rows = training_examples(dataset, CHATML, config)
        assert isinstance(rows, Mixture)
        assert len(rows) == 2 * len(rows.own)
        assert rows.documents == 1
        assert rows.row_count == (2 if method == "sft" else 2 * len(rows.own)) > 1
        assert {each.row.split(":")[0] for each in rows[len(rows.own) :]} == {"foods.jsonl"}
        assert set(dataset.fingerprints) == {str(book), str(rows_file)}
        assert [row.place for row in dataset.train] == ["book.txt:1"]

    def test_rows_to_mix_in_that_changed_since_they_were_checked_are_refused(
        self, book: Path, rows_file: Path
    ) -> None:
        config = self.config(book, mix=str(rows_file), sha256={str(rows_file): "ab" * 32})
        with pytest.raises(DataError, match=r"foods\.jsonl changed since it was checked"):
            load(config.data, seed=1)


class TestPromptsOfRewards:
    """``prompts_of``: what a run that samples its answers asks."""

    @staticmethod
    def _read(path: Path, rows: list[dict[str, object]], *, family: str = "chatml") -> Prompts:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        config = RunConfig.model_validate(
            {
                "data": {"train": str(path), "validation": 0},
                "objective": {"method": "grpo", "rewards": ["equals"], "max_completion_length": 8},
            }
        )
        dataset = load(config.data, seed=1)
        return prompts_of(dataset.train, str(path), tiny_tokenizer(family), config)  # type: ignore[arg-type]

    def test_they_bring_what_is_expected_and_every_column(self, tmp_path: Path) -> None:
        rows = [
            {"prompt": "a?", "completion": "yes", "price": 2.5},
            {"prompt": "b?", "completion": "no", "price": 3},
        ]
        found = self._read(tmp_path / "rows.jsonl", rows)
        assert [(each.row, each.prompt, each.expected) for each in found] == [
            ("rows.jsonl:1", "a?", "yes"),
            ("rows.jsonl:2", "b?", "no"),
        ]
        assert found[0].columns == rows[0]
        assert found[0].messages == [{"role": "user", "content": "a?"}]
        assert tiny_tokenizer().decode(found[0].prompt_ids).endswith("<|im_start|>assistant\n")

    def test_prompts_alone_will_do(self, tmp_path: Path) -> None:
        found = self._read(tmp_path / "rows.jsonl", [{"prompt": "a?"}, {"prompt": "b?"}])
        assert [each.expected for each in found] == ["", ""]

    def test_without_a_template_a_prompt_is_text(self, tmp_path: Path) -> None:
        found = self._read(tmp_path / "rows.jsonl", [{"prompt": "one two"}, {"prompt": "b?"}], family="base")
        assert tiny_tokenizer("base").decode(found[0].prompt_ids) == "one two"

    def test_rows_of_another_kind_are_refused_by_name(self, tmp_path: Path) -> None:
        pairs = [{"prompt": "a?", "chosen": "yes", "rejected": "no"}]
        with pytest.raises(DataError, match=r"rows\.jsonl:1 is a pair") as refused:
            self._read(tmp_path / "rows.jsonl", pairs)
        assert refused.value.code == "wrong-rows"
