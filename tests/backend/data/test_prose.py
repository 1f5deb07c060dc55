import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.data.prose import map_prose, parts, prose


@given(st.text(st.sampled_from("a `\n;(){}://www.#"), max_size=60))
def test_the_parts_of_a_text_are_the_text(text):
    assert "".join(part for part, _ in parts(text)) == text
    assert map_prose(text, str) == text


@pytest.mark.parametrize(
    "code",
    [
        "`x`",
        "```\nany words\n```",
        "https://a.example/b?c=d&e",
        "www.a.example/b",
        "int x = 1;",
        "f(x)",
        "a && b",
        "return x",
        "if x:",
        "x = 1",
        "$ ls",
        "<b>x</b>; y",
        "git push",
    ],
)
def test_code_and_addresses_are_no_prose(code):
    assert code not in prose(f"Say this:\n{code}\nand that.")
    assert map_prose(f"Say\n{code}\nnow", str.upper) == f"SAY\n{code}\nNOW"


@pytest.mark.parametrize(
    "text",
    [
        "Smith & Sons (London)",
        "If so: fine.",
        "It is 3 * 4.",
        "a-b: c",
        "From here on.",
        "Smith &amp;",
        "{{x}}",
    ],
)
def test_words_are_prose(text):
    assert prose(text) == text
