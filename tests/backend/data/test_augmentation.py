import random

import pytest

from backend.data import store
from backend.data.augmentation import Pair, add_noise, add_typos, augment, oversample, varied_pairs, varies
from backend.data.records import Row
from backend.data.texts import answers
from backend.run.config import AugmentationConfig
from tests.backend.data.rows import assistant, chat, pair, pairs, system, user

ALL_ON = AugmentationConfig(
    prompt_templates=["Please: {prompt}"], noise=0.1, typos=0.03, drop_system=0.5, sub_turns=0.5
)
LONG = chat(
    system("be kind"),
    user("Which of the following colours could be seen?"),
    assistant("blue"),
    user("and another?"),
    assistant("green"),
)
SENTENCE = "please explain where the copper kettle was standing yesterday evening"


def seeded():
    return random.Random(0)  # noqa: S311  # what the module under test takes


def many(row, how, epochs=200):
    return [augment(row, how, seed=0, epoch=epoch, index=0) for epoch in range(epochs)]


@pytest.mark.parametrize("off", [{}, {"share": 0.0, "noise": 0.1}, {"oversample": 3.0, "paraphrases": "x"}])
def test_off_gives_the_very_same_rows(off):
    augmentation = AugmentationConfig(**off)
    assert not varies(augmentation)
    assert all(row is LONG for row in many(LONG, augmentation))


@pytest.mark.parametrize(
    "on",
    [
        {"noise": 0.01},
        {"typos": 0.01},
        {"drop_system": 0.1},
        {"sub_turns": 0.1},
        {"prompt_templates": ["A {prompt}"]},
    ],
)
def test_every_kind_counts_as_varying(on):
    assert varies(AugmentationConfig(**on))


def test_the_share_of_rows_that_may_vary_is_as_configured():
    always = AugmentationConfig(sub_turns=1.0, share=0.25)
    varied = sum(
        augment(LONG, always, seed=3, epoch=epoch, index=index) is not LONG
        for epoch in range(2)
        for index in range(1000)
    )
    assert 430 < varied < 570


def test_the_same_seed_epoch_and_index_give_the_same_row_and_others_another():
    assert many(LONG, ALL_ON) == many(LONG, ALL_ON)
    varied = {str(row.messages) for row in many(LONG, ALL_ON)}
    assert len(varied) > 10
    others = [augment(LONG, ALL_ON, seed=0, epoch=0, index=index) for index in range(200)]
    assert others != many(LONG, ALL_ON)


def test_answers_and_places_are_never_touched():
    for row in many(LONG, ALL_ON):
        assert row.place == LONG.place
        assert answers(row) in (["blue"], ["blue", "green"])


def test_rows_of_plain_text_are_left_alone():
    text = Row("f:1", text="some text")
    assert augment(text, ALL_ON, seed=0, epoch=0, index=0) is text


def test_a_template_is_put_around_the_first_prompt_in_about_its_share():
    rows = many(pair("q", "a"), AugmentationConfig(prompt_templates=["A {prompt}", "{prompt} B"]), 600)
    asked = [row.messages[0]["content"] for row in rows]
    assert set(asked) == {"q", "A q", "q B"}
    assert all(150 < asked.count(each) < 250 for each in set(asked))


def test_a_prompt_with_braces_is_put_in_as_it_is():
    rows = many(pair("{prompt} {0}", "a"), AugmentationConfig(prompt_templates=["A {prompt}"]), 20)
    assert {row.messages[0]["content"] for row in rows} == {"{prompt} {0}", "A {prompt} {0}"}


def test_the_system_message_is_dropped_in_its_share():
    dropped = sum(
        row.messages[0]["role"] == "user" for row in many(LONG, AugmentationConfig(drop_system=0.3), 1000)
    )
    assert 250 < dropped < 350
    alone = pair("q", "a")
    assert augment(alone, AugmentationConfig(drop_system=1.0), seed=0, epoch=0, index=0) is alone


def test_long_chats_end_at_an_earlier_answer():
    rows = many(LONG, AugmentationConfig(sub_turns=1.0), 5)
    assert all(row.messages == LONG.messages[:3] for row in rows)
    short = pair("q", "a")
    assert augment(short, AugmentationConfig(sub_turns=1.0), seed=0, epoch=0, index=0) is short


def test_typos_come_at_their_rate_and_keep_the_words():
    chance = seeded()
    texts = [add_typos(SENTENCE, 0.03, chance) for _ in range(300)]
    changed = sum(
        one != two for text in texts for one, two in zip(text.split(), SENTENCE.split(), strict=True)
    )
    letters = sum(len(word) - 1 for word in SENTENCE.split() if len(word) > 3) * 300
    assert 0.02 < changed / letters < 0.03
    assert all(
        word[0] == given[0]
        for text in texts
        for word, given in zip(text.split(), SENTENCE.split(), strict=True)
    )


@pytest.mark.parametrize(
    "text",
    [
        "12345 67,890",
        "Berlin Hamburg Copenhagen",
        "https://example.com/some/path",
        "`rm -rf folder`",
        "print(something)",
        '{"name": "value"}',
        "use ./run.sh --flag=value",
        "an of it",
    ],
)
def test_numbers_names_addresses_and_code_get_no_typos(text):
    chance = seeded()
    assert all(add_typos(text, 0.03, chance) == text for _ in range(200))


def test_noise_changes_case_end_mark_or_spacing_only():
    chance = seeded()
    given = "Where Is the red kettle?"
    made = {add_noise(given, 0.1, chance) for _ in range(500)}
    assert given in made
    assert "where is the red kettle?" in made
    assert "Where Is the red kettle" in made
    assert all(" ".join(each.split()).lower().rstrip("?") == given.lower().rstrip("?") for each in made)


def test_noise_leaves_code_alone():
    assert add_noise("```\nA  B.\n```", 1.0, seeded()) == "```\nA  B.\n```"
    assert add_noise("One", 1.0, seeded()) == "one"


@pytest.mark.parametrize("limit", [store.IN_MEMORY_BYTES, 0])
def test_rows_that_change_are_shown_before_and_after(monkeypatch, limit):
    monkeypatch.setattr(store, "IN_MEMORY_BYTES", limit)
    rows = store.spill_to_disk([pair("q", "a"), LONG, Row("f:3", text="t")])
    how = AugmentationConfig(sub_turns=1.0)
    changed = augment(LONG, how, seed=0, epoch=4, index=1)
    assert varied_pairs(rows, how, seed=0, epoch=4) == [Pair(LONG, changed)]
    assert varied_pairs(rows, AugmentationConfig(), seed=0) == []


def test_oversample_repeats_rare_answers_up_to_the_cap():
    rows = pairs([*((f"q{n}", "ham") for n in range(10)), ("x", "spam"), ("y", "spam"), ("z", "rare")])
    more = oversample(rows, 3.0)
    assert more[:13] == rows
    answered = [row.messages[1]["content"] for row in more]
    assert {label: answered.count(label) for label in ("ham", "spam", "rare")} == {
        "ham": 10,
        "spam": 6,
        "rare": 3,
    }
    assert {row.place for row in more} == {row.place for row in rows}


def test_oversample_off():
    rows = pairs([("q", "a"), ("r", "a"), ("s", "b")])
    assert oversample(rows, 1.0) == rows
    assert oversample([], 2.0) == []


def test_a_shorter_chat_never_ends_with_a_call_of_a_tool():
    call = {"type": "function", "function": {"name": "add", "arguments": "{}"}}
    result = {"role": "tool", "content": "2"}
    row = chat(user("a"), assistant("", tool_calls=[call]), result, assistant("b"), user("c"), assistant("d"))
    ends = {len(each.messages) for each in many(row, AugmentationConfig(sub_turns=1))}
    assert ends == {4}


@pytest.mark.parametrize("unit", [" \n", "; ", "a-", "--a"])
def test_a_long_text_is_looked_at_once(unit):
    text = unit * 50_000
    assert add_typos(text, 0.0, seeded()) == text
