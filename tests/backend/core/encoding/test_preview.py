"""Rows as the model will see them: backend/core/encoding/preview.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from backend import data_pipeline
from backend.core.encoding import preview as preview_module
from backend.core.encoding.preview import Preview, PreviewRow, preview, preview_row
from backend.core.templates.template import special_tokens
from backend.data.records import Row
from backend.run.config import AugmentationConfig, DataConfig, TrainingConfig
from backend.run.schedule import total_steps
from backend.training.varied_rows import VariedRows
from tests.backend.core.chat_templates import NEXT_OPENS, RESULTS_INSIDE, templated
from tests.backend.core.templates.test_answer_spans import asked as asked_tool
from tests.runs import write_rows
from tests.tiny import FAMILIES, Family, tiny_tokenizer

CHAT = Row(
    "chat.jsonl:1",
    (
        {"role": "user", "content": "user"},
        {"role": "assistant", "content": "the assistant says: user"},
        {"role": "user", "content": "  and the end? ünï 😀 "},
        {"role": "assistant", "content": "end"},
    ),
)


def asked(question: str, answer: str) -> Row:
    return Row("x.jsonl:1", ({"role": "user", "content": question}, {"role": "assistant", "content": answer}))


def data(**changes: object) -> DataConfig:
    return DataConfig.model_validate({"train": "x.jsonl", "validation": 0, **changes})


def text(row: PreviewRow, *, state: str = "", template: bool | None = None) -> str:
    return "".join(
        token.text
        for token in row.tokens
        if state in {"", token.state} and template in {None, token.from_template}
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_ids_and_trained_tokens_are_those_of_the_trainer(family: Family) -> None:
    tokenizer, row = tiny_tokenizer(family), asked("Is it so?", "yes no")
    shown = preview_row(row, tokenizer, data())
    (example,) = data_pipeline.encode([row], tokenizer, data())
    assert [token.id for token in shown.tokens] == example.input_ids.tolist()
    assert [token.state == "trained" for token in shown.tokens] == example.trained.tolist()


@pytest.mark.parametrize(
    "row",
    [
        Row("x:1", (), input_ids=(60, 61, 62), labels=(-100, 61, 62)),
        Row("x:1", (), segments=(("Is it? ", False), ("yes no", True))),
    ],
    ids=["tokens", "segments"],
)
def test_rows_that_need_no_template_are_shown_as_they_train(row: Row) -> None:
    tokenizer = tiny_tokenizer("chatml")
    shown = preview_row(row, tokenizer, data())
    (example,) = data_pipeline.encode([row], tokenizer, data())
    assert [token.id for token in shown.tokens] == example.input_ids.tolist()
    assert [token.state == "trained" for token in shown.tokens] == example.trained.tolist()
    assert not any(token.from_template for token in shown.tokens)
    assert text(shown) == tokenizer.decode(example.input_ids.tolist())


def test_an_answer_that_repeats_the_result_of_a_tool_is_the_persons_own() -> None:
    shown = preview_row(Row("x:1", tuple(asked_tool())), templated(RESULTS_INSIDE, eos="<turn|>"), data())
    assert text(shown, state="trained", template=False) == "It is sunny."
    assert text(shown, state="context", template=False) == "Weather?sunny"


def test_an_end_that_only_the_next_turn_would_print_is_shown() -> None:
    shown = preview_row(asked("Is it?", "yes"), templated(NEXT_OPENS, stops=("<|user|>",)), data())
    assert (shown.tokens[-1].text, shown.tokens[-1].state) == ("<|user|>", "trained")


@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_person_wrote_is_told_from_what_the_template_put_there(family: Family) -> None:
    shown = preview_row(asked("Is it so?", "yes no"), tiny_tokenizer(family), data())
    assert text(shown, template=False).replace(" ", "") == "Isitso?yesno"
    assert text(shown, state="trained", template=False).strip() == "yes no"


@pytest.mark.parametrize("family", FAMILIES)
def test_one_token_ends_the_turn_and_it_is_the_last(family: Family) -> None:
    tokenizer = tiny_tokenizer(family)
    shown = preview_row(asked("Is it so?", "yes"), tokenizer, data())
    assert [token.ends_turn for token in shown.tokens] == [False] * (len(shown.tokens) - 1) + [True]
    assert shown.tokens[-1].text in special_tokens(tokenizer)


def test_a_content_that_the_template_shortens_is_looked_for() -> None:
    """Qwen's template leaves an earlier thinking block out, so its answer is not there as it was written."""
    thinking = {"role": "assistant", "content": "<think>hm</think>\n\nno", "trained": False}
    last = {"role": "assistant", "content": "sure"}
    row = Row("x.jsonl:1", (CHAT.messages[0], thinking, CHAT.messages[2], last))
    shown = preview_row(row, tiny_tokenizer("qwen3"), data())
    assert "hm" not in text(shown)
    own = "".join(text(shown, template=False).split())
    assert own == "usernoandtheend?ünï😀sure"


def test_a_template_that_refuses_other_words_shows_what_is_found() -> None:
    tokenizer = tiny_tokenizer("chatml")
    refuse = "{{ raise_exception('no') }}"
    marked = "{% if 'Sentinel' in messages[0]['content'] %}"
    tokenizer.chat_template = f"{marked}{refuse}{{% endif %}}{tokenizer.chat_template}"
    row = Row("x.jsonl:1", CHAT.messages[:2])
    shown = preview_row(row, tokenizer, data())
    assert text(shown, template=False) == "userthe assistant says: user"


@pytest.mark.parametrize("family", ["chatml", "llama3", "gemma", "qwen3"])
def test_words_of_the_template_in_a_persons_mouth_are_the_persons(family: Family) -> None:
    shown = preview_row(CHAT, tiny_tokenizer(family), data())
    own = "".join(str(message["content"]) for message in CHAT.messages)
    assert text(shown, template=False).replace(" ", "") == own.replace(" ", "")
    assert sum(token.ends_turn for token in shown.tokens) == 2


def test_every_character_of_the_rendered_row_is_shown_once() -> None:
    tokenizer = tiny_tokenizer()
    shown = preview_row(CHAT, tokenizer, data())
    whole = tokenizer.apply_chat_template(list(CHAT.messages), tokenize=False)
    assert text(shown) == whole.removesuffix("\n")


def test_plain_text_is_the_persons_and_its_end_is_not() -> None:
    tokenizer = tiny_tokenizer("base")
    shown = preview_row(Row("x.txt:1", text="hello wörld"), tokenizer, data())
    assert text(shown, template=False) == "hello wörld"
    assert text(shown, template=True) == "<|endoftext|>"
    assert {token.state for token in shown.tokens[1:]} == {"trained"}
    assert shown.tokens[0].state == "context"  # nothing predicts the first token


class TestTooLong:
    row = asked("one two three", "yes no hello world")

    def whole(self) -> PreviewRow:
        return preview_row(self.row, tiny_tokenizer(), data())

    def test_cut(self) -> None:
        limit = len(self.whole().tokens) - 2
        shown = preview_row(self.row, tiny_tokenizer(), data(max_length=limit, truncation="cut"))
        assert shown.fate == "cut"
        assert f"data.max_length is {limit}" in shown.problem
        assert [token.state for token in shown.tokens[limit:]] == ["cut", "cut"]
        assert "cut" not in {token.state for token in shown.tokens[:limit]}

    def test_cut_to_nothing_is_dropped(self) -> None:
        shown = preview_row(self.row, tiny_tokenizer(), data(max_length=8, truncation="cut"))
        assert shown.fate == "dropped"

    @pytest.mark.parametrize(("truncation", "fate"), [("drop", "dropped"), ("error", "refused")])
    def test_dropped_or_refused(self, truncation: str, fate: str) -> None:
        shown = preview_row(self.row, tiny_tokenizer(), data(max_length=20, truncation=truncation))
        assert shown.fate == fate
        assert shown.problem


def test_a_row_that_the_template_refuses_says_why() -> None:
    row = Row("x.jsonl:7", ({"role": "assistant", "content": "first"},))
    shown = preview_row(row, tiny_tokenizer("gemma"), data())
    assert (shown.place, shown.fate, shown.tokens) == ("x.jsonl:7", "refused", ())
    assert "take turns" in shown.problem


class TestTextsInPieces:
    TEXT = "one two three " * 20
    LIMIT = 16

    def test_the_first_piece_is_shown_and_the_number_told(self) -> None:
        tokenizer = tiny_tokenizer("base")
        row, settings = Row("book.txt:1", text=self.TEXT), data(max_length=self.LIMIT)
        whole = preview_row(row, tokenizer, data(max_length=1000)).tokens
        shown = preview_row(row, tokenizer, settings, cuts_texts=True)
        count = -(-(len(whole) - 1) // (self.LIMIT - 1))
        assert (shown.fate, shown.tokens) == ("whole", whole[: self.LIMIT])
        assert shown.problem == f"It has {len(whole)} tokens and becomes {count} pieces; this is the first."
        assert preview_row(row, tokenizer, settings).fate == "refused"

    def test_an_epoch_has_all_tokens_of_all_pieces(self, tmp_path: Path) -> None:
        texts = write_rows(tmp_path / "texts.jsonl", [{"text": self.TEXT * n} for n in (1, 2, 3)])
        settings = data(train=str(texts), max_length=self.LIMIT)
        dataset = data_pipeline.load(settings, seed=1)
        tokenizer = tiny_tokenizer("base")
        epoch = preview(dataset, settings, tokenizer, seed=1, rows_per_step=4, cuts_texts=True).epoch
        encoded = data_pipeline.encode(dataset.train, tokenizer, settings, method="cpt")
        assert (epoch.rows, epoch.tokens, epoch.trained_tokens, epoch.cut, epoch.refused) == (
            *(len(encoded), encoded.tokens, encoded.trained_tokens),
            *(0, 0),
        )


ROWS = [{"prompt": f"count to {n}", "completion": "one two three " * n} for n in range(1, 41)]


def previewed(
    settings: DataConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int,
    augmentation: AugmentationConfig | None = None,
    **options: int,
) -> Preview:
    """The preview of what the settings read."""
    dataset = data_pipeline.load(settings, seed=seed, augmentation=augmentation)
    return preview(dataset, settings, tokenizer, seed=seed, augmentation=augmentation, **options)


class TestTheWhole:
    def look(self, tmp_path: Path, tokenizer: PreTrainedTokenizerBase, **changes: object) -> Preview:
        file = write_rows(tmp_path / "rows.jsonl", ROWS)
        return previewed(data(train=str(file), **changes), tokenizer, seed=1, rows_per_step=16, rows=2)

    def test_an_epoch_costs_what_the_trainer_will_count(self, tmp_path: Path) -> None:
        found = self.look(tmp_path, tiny_tokenizer())
        file = str(tmp_path / "rows.jsonl")
        rows = data_pipeline.load(data(train=file), seed=1).train
        encoded = data_pipeline.encode(rows, tiny_tokenizer(), data())
        epoch = found.epoch
        assert (epoch.tokens, epoch.trained_tokens) == (encoded.tokens, encoded.trained_tokens)
        assert epoch.steps == total_steps(40, TrainingConfig(num_train_epochs=1)) == 3
        assert (epoch.rows, epoch.cut, epoch.dropped, epoch.refused, epoch.is_estimate) == (
            40,
            0,
            0,
            0,
            False,
        )

    def test_the_first_rows_are_shown(self, tmp_path: Path) -> None:
        found = self.look(tmp_path, tiny_tokenizer())
        assert [row.place for row in found.rows] == ["rows.jsonl:1", "rows.jsonl:2"]
        assert (found.train_rows, found.validation_rows, found.rejected) == (40, 0, 0)

    def test_the_histogram_counts_every_row_once(self, tmp_path: Path) -> None:
        lengths = self.look(tmp_path, tiny_tokenizer()).lengths
        assert sum(each.rows for each in lengths.bins) == 40
        assert lengths.bins[0].low == lengths.shortest
        assert lengths.bins[-1].high >= lengths.longest > lengths.median > lengths.shortest
        assert all(one.high + 1 == two.low for one, two in zip(lengths.bins, lengths.bins[1:], strict=False))

    @pytest.mark.parametrize(("truncation", "kept"), [("cut", 40), ("drop", 20), ("error", 20)])
    def test_rows_that_are_too_long_are_counted(self, tmp_path: Path, truncation: str, kept: int) -> None:
        limit = self.look(tmp_path, tiny_tokenizer()).lengths
        tokens = sorted(self.lengths(tmp_path))[19]
        found = self.look(tmp_path, tiny_tokenizer(), max_length=tokens, truncation=truncation)
        assert found.epoch.rows == kept
        assert found.epoch.cut + found.epoch.dropped + found.epoch.refused == 20
        assert found.lengths == limit

    def lengths(self, tmp_path: Path) -> list[int]:
        rows = data_pipeline.load(data(train=str(tmp_path / "rows.jsonl")), seed=1).train
        return [len(one.input_ids) for one in data_pipeline.encode(rows, tiny_tokenizer(), data())]

    def test_a_large_set_is_estimated_from_a_sample(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        exact = self.look(tmp_path, tiny_tokenizer()).epoch
        monkeypatch.setattr(preview_module, "MEASURED_ROWS", 10)
        epoch = self.look(tmp_path, tiny_tokenizer()).epoch
        assert epoch.is_estimate
        assert epoch.rows == 40
        assert epoch.tokens == pytest.approx(exact.tokens, rel=0.2)


def test_nothing_usable_is_an_answer_too(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [{"prompt": "a", "completion": "b"}])
    found = previewed(
        data(train=str(file), max_length=8, truncation="drop"), tiny_tokenizer(), seed=1, rows_per_step=4
    )
    assert found.epoch.dropped == 1
    assert (found.epoch.rows, found.epoch.steps, found.epoch.tokens) == (0, 0, 0)


class TestAugmentation:
    ON = AugmentationConfig(prompt_templates=["Please: {prompt}"], share=0.9, oversample=2.0)

    def look(self, tmp_path: Path, augmentation: AugmentationConfig | None) -> Preview:
        rows = [
            {"prompt": f"q{number}", "completion": "rare" if number < 5 else "ham"} for number in range(65)
        ]
        file = write_rows(tmp_path / "rows.jsonl", rows)
        return previewed(
            data(train=str(file)), tiny_tokenizer(), seed=4, rows_per_step=8, augmentation=augmentation
        )

    def test_rows_are_shown_before_and_after_as_the_trainer_makes_them(self, tmp_path: Path) -> None:
        shown = self.look(tmp_path, self.ON)
        dataset = data_pipeline.load(data(train=str(tmp_path / "rows.jsonl")), seed=4, augmentation=self.ON)
        tokenizer = tiny_tokenizer()
        encoded = data_pipeline.encode(dataset.train, tokenizer, data())
        made = VariedRows(dataset.train, encoded, tokenizer, self.ON, 1024, seed=4)(0, range(70))
        changed = [
            row
            for row, plain in zip(made, encoded, strict=True)
            if row.input_ids.tolist() != plain.input_ids.tolist()
        ]
        assert len(shown.varied) == 20
        assert [pair.before.place for pair in shown.varied] == [row.row for row in changed[:20]]
        assert shown.varied_share == len(changed) / 70
        assert 0.3 < shown.varied_share < 0.6

    def test_repeats_count_as_rows(self, tmp_path: Path) -> None:
        assert (self.look(tmp_path, self.ON).train_rows, self.look(tmp_path, None).train_rows) == (70, 65)

    def test_off_shows_none(self, tmp_path: Path) -> None:
        shown = self.look(tmp_path, AugmentationConfig())
        assert (shown.varied, shown.varied_share) == ((), 0.0)
