from __future__ import annotations

import gc
import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, processors
from transformers import PreTrainedTokenizerFast

from backend.core.templates.template import end_tokens
from backend.core.tokenizer import (
    Encoded,
    IncrementalDecoder,
    decode,
    encode_batch,
    encode_messages,
    encode_prompt,
    encode_prompt_completion,
    encode_text,
    load_tokenizer,
    stop_token_ids,
)
from backend.errors import DataError, ModelError
from tests.backend.core.odd_tokenizers import sentencepiece_like, with_bos, words_only
from tests.tiny import tiny_tokenizer

CHAT_FAMILIES = ("chatml", "llama3", "gemma", "mistral", "qwen3")
TOKENIZERS = {family: tiny_tokenizer(family) for family in (*CHAT_FAMILIES, "base")}
# what stands around an earlier answer and around the last one, in the text that is trained
AROUND = {
    "chatml": ("{}<|im_end|>", "{}<|im_end|>"),
    "llama3": ("{}<|eot_id|>", "{}<|eot_id|>"),
    "gemma": ("{}<end_of_turn>", "{}<end_of_turn>"),
    "mistral": (" {}</s>", " {}</s>"),
    "qwen3": ("{}<|im_end|>", "<think>\n\n</think>\n\n{}<|im_end|>"),
}
CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
fragments = st.sampled_from(
    ["{{ x }}", "{%", " ", "\n", "\n\n", "word", "1. a", "é", "漢", "🎉", "'s", "<|im_end|>"]
)
texts = st.lists(fragments | st.text(max_size=4), max_size=6).map("".join)
# an answer no template trims, and whose first character does not melt into the line break before it
answers = texts.map(lambda text: f"A{text}.")


def dialogue(questions: list[str], replies: list[str]) -> list[dict[str, object]]:
    pairs = zip(questions, replies, strict=True)
    return [
        message
        for question, reply in pairs
        for message in ({"role": "user", "content": question}, {"role": "assistant", "content": reply})
    ]


def template_ids(
    tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, object]], **options: object
) -> list[int]:
    return tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, **options)["input_ids"]


def trained_text(tokenizer: PreTrainedTokenizerFast, example: Encoded) -> str:
    ids = [token for token, flag in zip(example.input_ids, example.trained, strict=True) if flag]
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)


# --- loading ----------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model's tokenizer that a test may damage."""
    for path in tiny_folder.glob("*[!s]"):
        shutil.copy(path, tmp_path)
    return tmp_path


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_loaded_tokenizer_gives_the_ids_of_the_saved_one(tiny_folder: Path) -> None:
    loaded = load_tokenizer(tiny_folder)
    assert encode_messages(loaded, CHAT) == encode_messages(TOKENIZERS["chatml"], CHAT)


def test_pad_falls_back_to_eos_and_the_vocabulary_stays(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", pad_token=None)
    loaded = load_tokenizer(str(folder))
    assert (loaded.pad_token_id, len(loaded)) == (loaded.eos_token_id, len(TOKENIZERS["chatml"]))


def test_a_pad_token_of_its_own_stays(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", pad_token="<|im_start|>")
    assert load_tokenizer(folder).pad_token == "<|im_start|>"


def test_stored_truncation_and_padding_are_switched_off(folder: Path) -> None:
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.enable_truncation(3)
    backend.enable_padding(length=50)
    backend.save(str(folder / "tokenizer.json"))
    assert encode_messages(load_tokenizer(folder), CHAT) == encode_messages(TOKENIZERS["chatml"], CHAT)


@pytest.mark.parametrize("stops", [7, [7, 9]])
@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_the_tokens_at_which_the_model_stops_come_with_the_tokenizer(
    folder: Path, name: str, stops: int | list[int]
) -> None:
    (folder / name).write_text(json.dumps({"eos_token_id": stops}))
    tokenizer = load_tokenizer(folder)
    ids = [stops] if isinstance(stops, int) else stops
    assert end_tokens(tokenizer) == {tokenizer.eos_token, *tokenizer.convert_ids_to_tokens(ids)}


def test_a_folder_without_a_tokenizer_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=str(tmp_path)) as caught:
        load_tokenizer(tmp_path)
    assert caught.value.code == "no-tokenizer"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "garbage",
        "{}",
        "[]",
        '{"version": "1.0", "trunc',
        '{"added_tokens": [], "model": {"type": "New"}}',
    ],
)
def test_a_damaged_tokenizer_says_so(folder: Path, content: str) -> None:
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match=str(folder)) as caught:
        load_tokenizer(folder)
    assert caught.value.code == "damaged-tokenizer"


@pytest.mark.parametrize(
    ("name", "kind"), [("tokenizer_config.json", "tokenizer_class"), ("config.json", "model_type")]
)
def test_a_tokenizer_that_brings_code_is_refused(folder: Path, name: str, kind: str) -> None:
    edit(folder / name, **{kind: "Evil"}, auto_map={"AutoTokenizer": ["evil.Tokenizer", None]})
    with pytest.raises(ModelError) as caught:
        load_tokenizer(folder)
    assert caught.value.code == "remote-code"


def test_code_that_a_known_tokenizer_does_not_need_is_left_behind(folder: Path, tmp_path: Path) -> None:
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Tokenizer", None]})
    load_tokenizer(folder).save_pretrained(tmp_path / "saved")
    assert "auto_map" not in json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())


@pytest.mark.parametrize("collecting", [True, False])
def test_the_collector_is_left_as_it_was(
    tiny_folder: Path, collecting: bool, request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(gc.enable if gc.isenabled() else gc.disable)
    (gc.enable if collecting else gc.disable)()
    load_tokenizer(tiny_folder)
    assert gc.isenabled() is collecting


def test_a_tokenizer_without_an_end_says_so(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", eos_token=None)
    with pytest.raises(ModelError) as caught:
        load_tokenizer(folder)
    assert caught.value.code == "no-eos"


# --- messages ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", CHAT_FAMILIES)
@given(questions=st.lists(texts, min_size=2, max_size=2), replies=st.lists(texts, min_size=2, max_size=2))
def test_ids_are_a_prefix_of_the_templates_own(family: str, questions: list[str], replies: list[str]) -> None:
    messages = dialogue(questions, replies)
    example = encode_messages(TOKENIZERS[family], messages)
    whole = template_ids(TOKENIZERS[family], messages)
    assert whole[: len(example.input_ids)] == example.input_ids
    assert TOKENIZERS[family].decode(whole[len(example.input_ids) :]).strip() == ""


@pytest.mark.parametrize("family", CHAT_FAMILIES)
@given(questions=st.lists(texts, min_size=2, max_size=2), replies=st.lists(answers, min_size=2, max_size=2))
def test_the_answers_and_their_ends_are_trained_and_nothing_else(
    family: str, questions: list[str], replies: list[str]
) -> None:
    earlier, last = AROUND[family]
    example = encode_messages(TOKENIZERS[family], dialogue(questions, replies))
    assert trained_text(TOKENIZERS[family], example) == earlier.format(replies[0]) + last.format(replies[1])


@given(reply=texts)
def test_an_answer_of_any_text_is_trained_whole(reply: str) -> None:
    example = encode_messages(TOKENIZERS["chatml"], [CHAT[0], {"role": "assistant", "content": reply}])
    assert trained_text(TOKENIZERS["chatml"], example) in (f"{reply}<|im_end|>", f"\n{reply}<|im_end|>")


def test_a_line_break_melted_into_the_answer_is_trained_with_it() -> None:
    tokenizer = TOKENIZERS["chatml"]
    example = encode_messages(tokenizer, [CHAT[0], {"role": "assistant", "content": "\n\nA"}])
    assert trained_text(tokenizer, example) == "\n\n\nA<|im_end|>"


@pytest.mark.parametrize("family", CHAT_FAMILIES)
def test_training_starts_where_the_prompt_ends(family: str) -> None:
    tokenizer = TOKENIZERS[family]
    prompt = encode_prompt(tokenizer, CHAT[:1])
    example = encode_messages(tokenizer, CHAT)
    assert example.input_ids[: len(prompt)] == prompt
    assert example.trained == [False] * len(prompt) + [True] * (len(example.trained) - len(prompt))


def test_offsets_trimmed_by_the_tokenizer_do_not_shift_the_mask() -> None:
    tokenizer = tiny_tokenizer("chatml")
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    row = [CHAT[0], {"role": "assistant", "content": "  two  spaces  "}]
    assert encode_messages(tokenizer, row) == encode_messages(TOKENIZERS["chatml"], row)
    assert trained_text(tokenizer, encode_messages(tokenizer, row)) == "  two  spaces  <|im_end|>"


def test_ids_end_with_the_last_trained_token() -> None:
    tokenizer = TOKENIZERS["chatml"]
    more = [*CHAT, {"role": "user", "content": "More"}, {**CHAT[1], "trained": False}]
    assert encode_messages(tokenizer, more) == encode_messages(tokenizer, CHAT)


def test_an_untrained_earlier_answer_stays_in_the_ids() -> None:
    tokenizer = TOKENIZERS["chatml"]
    messages = [CHAT[0], {**CHAT[1], "weight": 0}, *dialogue(["More"], ["Bye."])]
    example = encode_messages(tokenizer, messages)
    assert trained_text(tokenizer, example) == "Bye.<|im_end|>"
    assert "Hello." in tokenizer.decode(example.input_ids)


@pytest.mark.parametrize("messages", [CHAT[:1], [CHAT[0], {**CHAT[1], "trained": False}]])
def test_nothing_trained_is_an_error(messages: list[dict[str, object]]) -> None:
    with pytest.raises(DataError) as caught:
        encode_messages(TOKENIZERS["chatml"], messages)
    assert caught.value.code == "nothing-trained"


@pytest.mark.parametrize(
    ("family", "error", "code"),
    [("gemma", DataError, "template-refused"), ("base", ModelError, "no-chat-template")],
)
def test_what_cannot_be_rendered_is_an_error(family: str, error: type[Exception], code: str) -> None:
    with pytest.raises(error) as caught:
        encode_messages(TOKENIZERS[family], [CHAT[1], CHAT[0]])
    assert caught.value.code == code


def test_half_a_character_in_a_text_is_an_error() -> None:
    with pytest.raises(DataError) as caught:
        encode_text(TOKENIZERS["base"], "a\ud800b")
    assert caught.value.code == "not-unicode"


def test_half_a_character_in_a_message_is_an_error() -> None:
    row = [CHAT[0], {"role": "assistant", "content": "a\udfff"}]
    with pytest.raises(DataError, match="Conversation 2") as caught:
        encode_batch(TOKENIZERS["chatml"], [CHAT, row])
    assert caught.value.code == "not-unicode"


def test_tools_reach_the_template() -> None:
    tokenizer = tiny_tokenizer("chatml")
    tokenizer.chat_template = "{{ tools[0]['function']['name'] }}" + tokenizer.chat_template
    tools = [{"type": "function", "function": {"name": "adder"}}]
    assert tokenizer.decode(encode_messages(tokenizer, CHAT, tools=tools).input_ids).startswith("adder")
    assert tokenizer.decode(encode_prompt(tokenizer, CHAT[:1], tools=tools)).startswith("adder")


@pytest.mark.parametrize("family", CHAT_FAMILIES)
@given(question=texts)
def test_prompt_ids_are_the_templates_own(family: str, question: str) -> None:
    messages = [{"role": "user", "content": question}]
    expected = template_ids(TOKENIZERS[family], messages, add_generation_prompt=True)
    assert encode_prompt(TOKENIZERS[family], messages) == expected


# --- many rows --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", CHAT_FAMILIES)
@given(rows=st.lists(st.tuples(texts, texts), max_size=4))
def test_a_batch_is_its_rows(family: str, rows: list[tuple[str, str]]) -> None:
    chats = [dialogue([question], [reply]) for question, reply in rows]
    assert encode_batch(TOKENIZERS[family], chats) == [
        encode_messages(TOKENIZERS[family], chat) for chat in chats
    ]


def test_a_batch_follows_a_changed_template() -> None:
    tokenizer = tiny_tokenizer("chatml")
    before = encode_batch(tokenizer, [CHAT])
    tokenizer.chat_template = tokenizer.chat_template.replace("Be brief", "Be long")
    after = encode_batch(tokenizer, [CHAT])
    assert [before, after] == [
        [encode_messages(TOKENIZERS["chatml"], CHAT)],
        [encode_messages(tokenizer, CHAT)],
    ]
    assert before != after


@pytest.mark.parametrize(
    ("row", "error", "code"),
    [
        (CHAT[:1], DataError, "nothing-trained"),
        ([{"role": "user", "content": None}], DataError, "template-refused"),
    ],
)
def test_a_batch_names_the_row_that_fails(
    row: list[dict[str, object]], error: type[Exception], code: str
) -> None:
    with pytest.raises(error, match="Conversation 2: ") as caught:
        encode_batch(TOKENIZERS["chatml"], [CHAT, row])
    assert caught.value.code == code


# --- plain text -------------------------------------------------------------------------------------------


@given(text=texts)
def test_text_is_trained_whole_and_ends(text: str) -> None:
    tokenizer = TOKENIZERS["base"]
    example = encode_text(tokenizer, text)
    assert example.input_ids == [
        *tokenizer(text, add_special_tokens=False)["input_ids"],
        tokenizer.eos_token_id,
    ]
    assert example.trained == [True] * len(example.input_ids)


def test_texts_and_prompts_open_with_bos_where_the_tokenizer_puts_one() -> None:
    tokenizer = with_bos()
    assert encode_text(tokenizer, "Hi").input_ids == tokenizer("Hi")["input_ids"]
    assert encode_prompt_completion(tokenizer, "a", "b").input_ids[0] == tokenizer.bos_token_id


@given(prompt=texts, completion=texts)
def test_a_completion_is_trained_and_its_prompt_is_not(prompt: str, completion: str) -> None:
    tokenizer = TOKENIZERS["base"]
    example = encode_prompt_completion(tokenizer, prompt, completion)
    head = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    tail = [*tokenizer(completion, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    assert example == Encoded(head + tail, [False] * len(head) + [True] * len(tail))


# --- stopping, special tokens -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("chatml", {"<|im_end|>"}),
        ("llama3", {"<|end_of_text|>", "<|eot_id|>"}),
        ("gemma", {"<eos>", "<end_of_turn>"}),
        ("base", {"<|endoftext|>"}),
    ],
)
def test_stops_are_eos_and_the_turn_end(family: str, expected: set[str]) -> None:
    tokenizer = TOKENIZERS[family]
    assert stop_token_ids(tokenizer) == {tokenizer.convert_tokens_to_ids(token) for token in expected}


@pytest.mark.parametrize(("given_ids", "extra"), [(7, {7}), ([7, 8], {7, 8}), (None, set()), ([], set())])
def test_stops_include_the_models_own(given_ids: int | list[int] | None, extra: set[int]) -> None:
    assert stop_token_ids(TOKENIZERS["chatml"], given_ids) == {1} | extra


def test_stops_of_a_template_without_a_turn_end_are_eos() -> None:
    tokenizer = tiny_tokenizer("chatml")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    assert stop_token_ids(tokenizer) == {tokenizer.eos_token_id}


# --- decoding ---------------------------------------------------------------------------------------------


DECODED = {"bytes": TOKENIZERS["chatml"], "pieces": sentencepiece_like(), "words": words_only()}


@given(text=texts)
def test_decoding_gives_the_text_back_without_special_tokens(text: str) -> None:
    tokenizer = TOKENIZERS["gemma"]
    assert decode(tokenizer, tokenizer(text)["input_ids"]) == text


def test_decoding_leaves_special_tokens_out_and_cleans_nothing_up() -> None:
    ids = TOKENIZERS["chatml"]("do n't , you ?<|im_end|>")["input_ids"]
    assert decode(TOKENIZERS["chatml"], ids) == "do n't , you ?"


@pytest.mark.parametrize("kind", DECODED)
@given(data=st.data())
def test_streamed_pieces_join_to_the_decoded_whole(kind: str, data: st.DataObject) -> None:
    tokenizer = DECODED[kind]
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=30), label="ids")
    decoder = IncrementalDecoder(tokenizer)
    pieces = [*(decoder.push(token) for token in ids), decoder.finish()]
    assert "".join(pieces) == decode(tokenizer, ids)


@pytest.mark.parametrize("kind", DECODED)
@given(text=texts.filter(lambda text: "\ufffd" not in text))
def test_no_piece_holds_half_a_character(kind: str, text: str) -> None:
    tokenizer = DECODED[kind]
    decoder = IncrementalDecoder(tokenizer)
    pieces = [decoder.push(token) for token in tokenizer(text, add_special_tokens=False)["input_ids"]]
    assert "\ufffd" not in "".join(pieces)


def test_an_unfinished_character_comes_out_at_the_end() -> None:
    tokenizer = TOKENIZERS["base"]
    decoder = IncrementalDecoder(tokenizer)
    first = tokenizer("🎉")["input_ids"][0]
    assert [decoder.push(first), decoder.finish(), decoder.finish()] == ["", "\ufffd", ""]


# --- the real one -----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def smollm2_tokenizer(smollm2: Path) -> PreTrainedTokenizerFast:
    return load_tokenizer(smollm2)


# its vocabulary lacks some bytes, of control characters and of rare planes
latin = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0x17F, exclude_categories=["Cc"]), max_size=30
)


@pytest.mark.model
@given(questions=st.lists(texts, min_size=2, max_size=2), replies=st.lists(latin, min_size=2, max_size=2))
def test_smollm2_is_rendered_as_its_template_does(
    smollm2_tokenizer: PreTrainedTokenizerFast, questions: list[str], replies: list[str]
) -> None:
    messages = dialogue(questions, [f"A{reply}" for reply in replies])
    (example,) = encode_batch(smollm2_tokenizer, [messages])
    assert example == encode_messages(smollm2_tokenizer, messages)
    assert example.input_ids == template_ids(smollm2_tokenizer, messages)[:-1]
    assert trained_text(smollm2_tokenizer, example) == "".join(f"A{reply}<|im_end|>" for reply in replies)
