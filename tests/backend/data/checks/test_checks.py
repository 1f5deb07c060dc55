"""For each of the 23 checks: sets that trigger it and sets that do not."""

from dataclasses import dataclass, replace

import pytest

from backend.data.checks import ALL, Scan
from backend.data.checks.template import TEMPLATE_CHECKS
from backend.data.checks.tokens import TOKEN_CHECKS
from backend.data.doctor import run_checks
from backend.data.records import Row
from backend.errors import DataError
from tests.backend.data.rows import assistant, chat, pair, pairs, system, user

TOPICS = [
    "river",
    "copper",
    "violin",
    "harvest",
    "glacier",
    "lantern",
    "saddle",
    "thunder",
    "marble",
    "orchid",
]
SOUND = pairs(
    (
        f"Tell me about the {topic} number {number}.",
        f"The {topic} has {number} sides, as everybody in town can see.",
    )
    for number in range(1, 11)
    for topic in TOPICS
)
BY_SLUG = {check.slug: check for check in ALL}


@dataclass
class Tokens:
    input_ids: list[int]
    trained: list[bool]


END = 9


def tokens(*ids, trained):
    return Tokens(list(ids), [bool(flag) for flag in trained])


def findings(slug, rows, **more):
    rows = [replace(row, place=f"f:{number}") for number, row in enumerate(rows, 1)]
    found, _ = run_checks(Scan(rows, **more), [BY_SLUG[slug]])
    return found


def labelled(labels):
    return pairs((f"word {number} of the list", label) for number, label in enumerate(labels))


def preference(chosen, rejected, prompt="q"):
    return chat(user(prompt), chosen=(assistant(chosen),), rejected=(assistant(rejected),))


CALL = {"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"x": 1}'}}
TOOLS = '[{"type": "function", "function": {"name": "add"}}]'


def calling(call=CALL, answer_id="c"):
    answer = {"role": "tool", "content": "2", "tool_call_id": answer_id}
    return chat(user("1+1"), assistant("", tool_calls=[call]), answer, assistant("2"), tools=TOOLS)


LONG = "Cheddar cheese, sharp, sliced, aged twelve months"
LONG_REPLY = "Press the red button twice, then wait."
WORDY = "this answer has quite a few words in it so that it counts as long"

# slug: (rows that trigger, number of rows found, rows that must not trigger, further arguments)
CASES = {
    "contamination": ([*SOUND, pair("held OUT", "b")], 1, SOUND, {"validation": [pair("Held out?", "a")]}),
    "near-contamination": (
        [*SOUND, pair(LONG[:-1], "a")],
        1,
        [*SOUND, pair(LONG[:-1], "b")],
        {"validation": [pair(LONG, "a")]},
    ),
    "shared-answers": (
        [*SOUND, pair("How do I start it again?", LONG_REPLY)],
        1,
        SOUND,
        {"validation": [pair("What is the way to start over?", LONG_REPLY)]},
    ),
    "paraphrases": (
        [
            *SOUND,
            pair("How do I start it again?", LONG_REPLY),
            pair("What is the way to start over?", LONG_REPLY),
        ],
        1,
        SOUND,
        {},
    ),
    "duplicates": ([*SOUND, SOUND[0], SOUND[0], SOUND[1]], 3, SOUND, {}),
    "near-duplicates": (
        [*SOUND, pair(LONG, "a"), pair(LONG[:-1], "a")],
        1,
        [*SOUND, pair(LONG, "a"), pair(LONG, "a")],
        {},
    ),
    "conflicting-answers": (
        [*SOUND, pair(SOUND[0].messages[0]["content"], "Another answer")],
        1,
        [*SOUND, SOUND[0]],
        {},
    ),
    "empty-answers": (
        [pair("q", ""), pair("q", " \n"), chat(user("q")), pair("q", "a")],
        3,
        [calling(), *SOUND],
        {},
    ),
    "empty-prompts": (
        [*SOUND, pair(" \u200b", "a")],
        1,
        [*SOUND, preference("a", "b", prompt=" "), chat(assistant("a"))],
        {},
    ),
    "one-answer": (pairs((f"question {n}", "ok") for n in range(30)), 1, SOUND, {}),
    "swapped-sides": (
        pairs((f"It is {n}.", f"What is number {n}?") for n in range(30)),
        1,
        pairs((f"What is number {n}?", f"It is {n}.") for n in range(30)),
        {},
    ),
    "missing-answers": ([pair("q", "NA"), pair("q", " null "), pair("q", "a")], 2, [pair("q", "Nathan")], {}),
    "template-markup": (
        [
            pair("q", "a<|im_end|>"),
            pair("### Instruction: x", "a"),
            pair("[INST] q", "a"),
            Row("f", text="<s>a"),
        ],
        4,
        [
            pair("a <b> c", "if a < s > b"),
            Row("f", text="<|im_start|>user"),
            pair("# Response", "a human: x"),
        ],
        {},
    ),
    "role-order": (
        [
            chat(assistant("a"), user("q"), assistant("a")),
            chat(user("q"), user("q"), assistant("a")),
            chat(user("q"), assistant("a"), user("q")),
            chat(user("q"), system("s"), assistant("a")),
            chat(system("s")),
        ],
        5,
        [chat(system("s"), user("q"), assistant("a")), calling(), preference("a", "b"), Row("f", text="t")],
        {},
    ),
    "answer-in-prompt": (
        [*SOUND, pair("The capital of France is Paris, the city. Where?", "Paris, the city")],
        1,
        [*SOUND, pair("Paris or Rome?", "Paris")],
        {},
    ),
    "unfinished-answers": (
        [*(pair(f"q{n}", WORDY + ".") for n in range(20)), pair("q", WORDY + " and then")],
        1,
        [*(pair(f"q{n}", WORDY) for n in range(20)), pair("q", WORDY + ".")],
        {},
    ),
    "broken-answers": (
        [pair("q", '{"a": 1'), pair("q", "```python\nx"), pair("q", '["a", ')],
        3,
        [pair("q", '{"a": 1}'), pair("q", "```\nx\n```"), pair("q", "{x} is a set")],
        {},
    ),
    "damaged-text": (
        [pair("cafÃ©", "a"), pair("q", "caf\ufffd"), pair("q", "a\0")],
        3,
        [pair("café", "naïve 日本")],
        {},
    ),
    "label-variants": (
        [*labelled(["positive", "negative"] * 30), pair("x", "Positive "), pair("y", "negativ")],
        2,
        labelled(["positive", "negative", "label 1", "label 2"] * 20),
        {},
    ),
    "small-classes": (
        labelled(["sports", "news"] * 20 + ["art"] * 3),
        1,
        labelled(["sports", "news"] * 20),
        {},
    ),
    "label-imbalance": (labelled(["ham"] * 95 + ["spam"] * 5), 1, labelled(["ham", "spam"] * 20), {}),
    "sorted-labels": (
        labelled(["ham"] * 30 + ["spam"] * 30),
        1,
        labelled(["ham", "spam", "spam", "ham"] * 15),
        {},
    ),
    "secrets": (
        [
            pair("key AKIA" + "ABCDEFGHIJKLMNOP", "a"),
            pair("q", "ghp_" + "a" * 36),
            pair("q", "-----BEGIN RSA PRIVATE KEY-----"),
            pair("q", "postgres://me:hunter22@db.example.com/x"),
        ],
        4,
        [pair("AKIA is a prefix", "sk-short"), pair("https://example.com:80/x", "hf_space")],
        {},
    ),
    "personal-data": (
        [
            pair("write to jo.doe@firm.com", "a"),
            pair("q", "4111 1111 1111 1111"),
            pair("q", "DE89 3704 0044 0532 0130 00"),
            pair("q", "call +49 170 1234567"),
            pair("q", "at 8.8.8.8 now"),
        ],
        5,
        [
            pair("me@example.com", "1234 5678 9012 3456"),
            pair("192.168.0.1", "version 1.2.3.4567"),
            pair("2020-01-02", "3.14"),
        ],
        {},
    ),
    "refusals": (
        [*SOUND, pair("q", "As an AI language model, I cannot say.")],
        1,
        [*SOUND, pair("q", "As a baker, I can.")],
        {},
    ),
    "same-opening": (
        [
            *SOUND,
            *(pair(f"q{n}", f"Sure, here is the answer that you asked for: {n} and more") for n in range(12)),
        ],
        12,
        SOUND,
        {},
    ),
    "placeholders": (
        [pair("Dear {{name}}", "a"), pair("q", "[YOUR NAME]"), pair("q", "TODO")],
        3,
        [pair("{x}", "[1] todo list")],
        {},
    ),
    "web-junk": (
        [pair("<p>a</p><br>", "a"), pair("a &amp; b", "a"), pair("q", "x" * 250)],
        3,
        [pair("a < b & c > d", "<p>"), pair("q", "```html\n<p>a</p><br>\n```")],
        {},
    ),
    "extreme-lengths": ([*SOUND, *SOUND, pair("word " * 500, "a")], 1, SOUND, {}),
    "mixed-scripts": ([*SOUND, pair("q", "это ответ на вопрос")], 1, [*SOUND, pair("q", "42")], {}),
    "too-few-rows": (SOUND[:10], 1, SOUND, {}),
    "equal-pairs": ([preference("a", "a "), preference("a", "b")], 1, [preference("a", "b")], {}),
    "no-shared-prompt": ([preference("a", "b", prompt=" ")], 1, [preference("a", "b")], {}),
    "untrainable-rows": (
        [preference("a", "b"), replace(pair("q", "a"), label=False), pair("q", "a")],
        2,
        [pair("q", "a")],
        {"method": "sft"},
    ),
    "repeated-prompts": (
        [preference(f"{LONG} a", f"{LONG} b", prompt=LONG), preference("a", "b")],
        1,
        [preference("a", "b", prompt=LONG)],
        {},
    ),
    "conflicting-pairs": (
        [preference("a", "b"), preference("b", "a"), preference("a", "c")],
        2,
        [preference("a", "b"), preference("b", "c"), preference("a", "c")],
        {},
    ),
    "length-bias": (
        [preference("longer", "s")] * 20,
        1,
        [preference("longer", "slower"), preference("s", "t")] * 10,
        {},
    ),
    "one-class-ratings": (
        [replace(pair("q", "a"), label=True)] * 20,
        1,
        [replace(pair("q", "a"), label=flag) for flag in (True, False)] * 10,
        {},
    ),
    "one-sided-ratings": (
        [replace(pair("q", "a"), label=number > 0) for number in range(20)],
        1,
        [replace(pair("q", "a"), label=flag) for flag in (True, False)] * 10,
        {},
    ),
    "cut-off-replies": (
        [preference("a", f"{WORDY}. It goes on with the")] * 10,
        10,
        [preference("a", f"{WORDY}. It goes on with the end.")] * 10,
        {},
    ),
    "tool-calls": (
        [
            calling({**CALL, "function": {"name": "add", "arguments": "{x"}}),
            calling({**CALL, "function": {"name": "sub", "arguments": "{}"}}),
            calling(answer_id="other"),
            chat(user("q"), {"role": "tool", "content": "2"}, assistant("a")),
        ],
        4,
        [calling(), pair("q", "a")],
        {},
    ),
}


@pytest.mark.parametrize("slug", CASES)
def test_the_check_finds_what_it_should(slug):
    rows, count, _, more = CASES[slug]
    (finding,) = findings(slug, rows, **more)
    assert finding.count == count
    assert len(finding.examples) == min(count, 3)
    assert all(example.place.startswith("f:") and example.detail for example in finding.examples)


@pytest.mark.parametrize("slug", CASES)
def test_the_check_leaves_sound_rows_alone(slug):
    _, _, rows, more = CASES[slug]
    assert findings(slug, rows, **more) == ()


NOT_TO_LEARN = {
    "refusals": "As an AI language model, I cannot do that.",
    "placeholders": "Dear [Your Name], thank you.",
    "web-junk": "<p>One.</p> <p>Two.</p>",
    "broken-answers": '{"command": "ls"',
    "missing-answers": "n/a",
    "empty-answers": "",
}
ANYWHERE = {
    "damaged-text": "It is a caf\u00c3\u00a9 by the river.",
    "secrets": f"The key is ghp_{'a1B2' * 9}.",
    "personal-data": "Write to jane.doe@mail.de about it.",
    "template-markup": "<|im_start|>assistant",
}


@pytest.mark.parametrize("slug", NOT_TO_LEARN)
def test_what_the_model_should_not_write_may_stand_in_bad_answers_only(slug):
    text = NOT_TO_LEARN[slug]
    good, bad = preference(text, "b"), preference("a", text)
    assert findings(slug, [good, replace(pair("q", text), label=True)])[0].count == 2
    assert findings(slug, [bad, replace(pair("q", text), label=False)]) == ()


@pytest.mark.parametrize("slug", ANYWHERE)
def test_some_faults_are_named_in_every_answer(slug):
    rows = [preference(ANYWHERE[slug], "b"), preference("a", ANYWHERE[slug])]
    rows += [replace(pair("q", ANYWHERE[slug]), label=flag) for flag in (True, False)]
    assert findings(slug, rows)[0].count == 4


def test_answers_of_a_rating_are_no_labels_and_bad_ones_no_paraphrases():
    rows = [
        replace(row, label=number % 2 > 0) for number, row in enumerate(labelled(["yes", "Yes", "no"] * 20))
    ]
    assert findings("label-variants", rows) == ()
    asked = [pair("How do I start it again?", LONG_REPLY), pair("What is the way to start over?", LONG_REPLY)]
    assert findings("paraphrases", [replace(row, label=True) for row in asked])[0].count == 1
    assert findings("paraphrases", [replace(row, label=False) for row in asked]) == ()
    told = pair(f"Say it: {LONG_REPLY}, please", LONG_REPLY)
    assert findings("answer-in-prompt", [replace(told, label=True)])[0].count == 1
    assert findings("answer-in-prompt", [replace(told, label=False)]) == ()


def test_several_answers_to_one_prompt_are_normal_in_preferences():
    pairs_of_one = [preference(f"good {n}", f"bad {n}") for n in range(9)]
    judged = [replace(pair("q", f"reply {n}"), label=n > 4) for n in range(9)]
    assert findings("conflicting-answers", [*pairs_of_one, *judged]) == ()
    assert findings("conflicting-pairs", [*pairs_of_one, *judged]) == ()


def encoder(encoded):
    return lambda _row: encoded


TOKEN_CASES = {
    "end-not-trained": (tokens(1, 2, 9, trained=[0, 1, 0]), tokens(1, 2, 9, trained=[0, 1, 1])),
    "mask-wrong": (tokens(1, 2, 9, trained=[0, 0, 0]), tokens(1, 2, 9, trained=[0, 1, 1])),
    "too-long": (tokens(*range(10), trained=[1] * 10), tokens(*range(5), trained=[1] * 5)),
    "no-room-for-answers": (
        tokens(*range(10), trained=[0] * 5 + [1] * 5),
        tokens(*range(10), trained=[0] * 4 + [1] * 6),
    ),
}


@pytest.mark.parametrize("slug", TOKEN_CASES)
def test_checks_of_tokens(slug):
    bad, good = TOKEN_CASES[slug]
    more = {"end_ids": frozenset({END}), "max_length": 5}
    (finding,) = findings(slug, SOUND[:4], encode=encoder(bad), **more)
    assert finding.count == 4
    assert findings(slug, SOUND[:4], encode=encoder(good), **more) == ()


def test_rows_that_are_too_long_are_told_all_at_once_with_what_each_remedy_keeps():
    lengths = {"f:1": 4, "f:2": 8, "f:3": 11}

    def encode(row):
        length = lengths[row.place]
        return tokens(*range(length), trained=[0] * (length - 4) + [1] * 4)

    (finding,) = findings("too-long", SOUND[:3], encode=encode, max_length=5)
    assert (finding.level, finding.count) == ("block", 2)
    assert [each.place for each in finding.examples] == ["f:3", "f:2"]
    assert "2 of 3 rows are longer than 5 tokens; the longest has 11." in finding.harm
    assert "data.max_length 11 keeps them whole; data.truncation drop keeps the other 1," in finding.harm
    assert "cut also the beginnings of 1 answers." in finding.harm


def test_both_sides_of_a_pair_are_encoded_and_the_pair_is_named_once():
    def encode(row):
        assert row.kind == "judged"
        length = {"long": 8}.get(row.messages[-1]["content"], 4)
        return tokens(*range(length), trained=([0, 0, 0, 1] * 2)[:length])

    rows = [preference("long", "long"), preference("a", "long"), preference("a", "b")]
    (finding,) = findings("too-long", rows, encode=encode, max_length=5)
    assert finding.count == 2
    assert "2 of 3 rows are longer" in finding.harm
    assert "keeps the other 1, cut also the beginnings of 2 answers" in finding.harm


def test_no_row_is_encoded_twice_by_the_checks_of_tokens():
    seen = []

    def encode(row):
        seen.append(row.place)
        return tokens(1, 2, 9, trained=[0, 1, 1])

    run_checks(Scan(SOUND[:4], encode=encode, max_length=2), TOKEN_CHECKS)
    assert len(seen) == 4


def test_a_conversation_in_which_everything_is_trained_is_flagged_and_a_text_is_not():
    encode = encoder(tokens(1, 9, trained=[1, 1]))
    assert findings("mask-wrong", SOUND[:1], encode=encode)[0].count == 1
    assert findings("mask-wrong", [Row("f:1", text="t")], encode=encode) == ()


def test_rows_that_the_template_refuses_are_found_and_break_no_other_check():
    def encode(row):
        raise DataError(f"{row.place}: roles must alternate.", remedy="", code="template-refused")

    (finding,) = findings("template-refused", SOUND[:2], encode=encode)
    assert finding.examples[0].detail == "f:1: roles must alternate."
    assert findings("mask-wrong", SOUND[:2], encode=encode) == ()


def test_a_large_set_is_encoded_in_an_even_sample():
    seen = []

    def encode(row):
        seen.append(row.place)
        return tokens(9, trained=[1])

    (finding,) = findings("mask-wrong", SOUND * 50, encode=encode)
    assert (finding.count, finding.share, finding.is_estimate) == (len(SOUND) * 50, 1.0, True)
    assert len(seen) <= 2000
    assert seen[0] == "f:1"
    assert int(seen[-1].removeprefix("f:")) > 4_900


def test_duplicates_block_once_a_fifth_of_the_rows_is_concerned():
    assert findings("duplicates", [*SOUND, SOUND[0]])[0].level == "warn"
    assert findings("duplicates", [*SOUND, *SOUND])[0].level == "block"


@pytest.mark.parametrize(
    ("slug", "rows", "more", "chosen"),
    [
        ("contamination", SOUND, {"validation": SOUND[:10]}, True),
        ("contamination", SOUND, {"validation": SOUND}, False),
        ("empty-answers", [*SOUND, pair("q", "")], {}, True),
        ("empty-answers", [pair(f"q {n}", "") for n in range(9)], {}, False),
        ("equal-pairs", [preference("a", "a")] * 9, {}, False),
        ("duplicates", [*SOUND, *SOUND], {}, True),
        ("near-duplicates", [*SOUND, pair(LONG, "a"), pair(LONG[:-1], "a")], {}, False),
        ("web-junk", [*SOUND, pair("a &amp; b", "a")], {}, False),
    ],
)
def test_a_fix_that_would_take_much_or_what_is_meant_is_not_chosen_by_itself(slug, rows, more, chosen):
    assert findings(slug, rows, **more)[0].fix_is_chosen is chosen


def test_few_held_out_rows_come_with_the_interval_of_their_score():
    (finding,) = findings("too-few-rows", SOUND, validation=SOUND[:10])
    assert finding.examples[0].detail == "10 held-out rows: a score of 80 % could as well be 49% or 94%"


@pytest.mark.parametrize(
    ("rows", "said"), [(SOUND[:1], "this is the only row"), (SOUND[:1] * 60, "all rows have one prompt")]
)
def test_rows_that_cannot_be_split_as_training_would_are_named(rows, said):
    (finding,) = findings("too-few-rows", rows)
    assert finding.examples[0].detail.startswith(f"{said}, so none can be held out")
    assert all(
        "held out" not in one.detail
        for one in findings("too-few-rows", SOUND[:1], validation=SOUND)[0].examples
    )


def test_many_epochs_over_few_rows_are_named():
    (finding,) = findings("too-few-rows", SOUND, epochs=20)
    assert finding.examples[0].detail == "20 epochs over 100 rows: the model will know them by heart"


def test_every_one_of_the_23_kinds_has_a_check_and_every_check_a_case():
    assert {check.number for check in ALL} == set(range(1, 24))
    assert set(BY_SLUG) == {
        *CASES,
        *TOKEN_CASES,
        "template-refused",
        *(check.slug for check in TEMPLATE_CHECKS),
    }
    assert len(BY_SLUG) == len(ALL)
