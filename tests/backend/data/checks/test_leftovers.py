import pytest

from backend.data.checks.leftovers import template_markup, unescape_entities, unresolved_placeholder, web_junk
from tests.backend.data.rows import pair


@pytest.mark.parametrize(
    "markup",
    [
        *(
            "<|im_start|>user",
            "<|eot_id|>",
            "<|start_header_id|>",
            "<|header_start|>",
            "[INST]",
            "[/SYSTEM_PROMPT]",
        ),
        *(
            "<<SYS>>",
            "<start_of_turn>",
            "<|assistant|>",
            "<｜User｜>",
            "<｜end▁of▁sentence｜>",
            "<|USER_TOKEN|>",
        ),
        *(
            "<|start_of_role|>",
            "[gMASK]",
            "<|channel|>",
            "\n### Response:\n",
            "\n### Human: hi",
            "\nHuman: hi",
        ),
        *("<|end_of_turn|>", "</s>", "<eos>", "[TOOL_CALLS]", "<|python_tag|>", "\nUSER: hi"),
    ],
)
def test_remains_of_templates_are_found(markup):
    assert template_markup(pair("q", f"It is so {markup} and so on"))


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("How is struck text written in HTML 4?", "Write <s>old</s> around it."),
        ("Write a report heading", "### Response: overview\nText."),
        ("Write a dialogue", "Human: Hello!\nRobot: Hi."),
        ("Sum up", "## Input and output\nIt is [INSTALLED] at <start>."),
        ("In F#?", "xs |> f <| y"),
    ],
)
def test_words_that_look_like_a_template_are_no_remains(prompt, answer):
    assert template_markup(pair(prompt, answer)) is None


@pytest.mark.parametrize(
    "gap",
    [
        *(
            "[Your Name]",
            "[Company Name]",
            "[YOUR NAME]",
            "[Date]",
            "[Recipient's Name]",
            "[insert date here]",
        ),
        *("<name>", "<your api key>", "<first_name>", "{name}", "{first_name}", "{{x}}", "{{ user.city }}"),
        *("TODO: write this", "TODO", "[TBD]", "XXXXXX", "Lorem ipsum"),
    ],
)
def test_gaps_are_found(gap):
    assert unresolved_placeholder(pair("Write a letter", f"Dear Sir,\n{gap}\nYours"))


@pytest.mark.parametrize(
    "text",
    [
        "{% for u in users %}{{ u.name }}{% endfor %}",
        "run: echo ${{ github.ref }}",
        "Es un TODO para mi.",
        "See [Name](https://a.example) and [1].",
        "`git branch -d <name>` deletes it",
        "<name>Ann</name>",
        "print(f'{name}')",
        "GET /users/{id}/{name}",
        "git config user.name <name>",
        "```\nHello {name}\n```",
        "# TODO: later",
        "a[Name] is it",
        "the list [Monday, Tuesday]",
    ],
)
def test_code_and_links_are_no_gaps(text):
    assert unresolved_placeholder(pair("q", text)) is None


@pytest.mark.parametrize(
    "junk",
    ["<p>a</p> and <br>", "a &amp; b", "it&#39;s", "x&nbsp;y", "caf&eacute;", "QUJD" * 60, "&#x2019;"],
)
def test_web_pages_are_found(junk):
    assert web_junk(pair("q", f"It says {junk} here"))


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("Write a list in HTML", "<ul><li>a</li><li>b</li></ul>"),
        ("How do I show a tag?", "Write &lt;b&gt; here"),
        ("q", "AT&T; R&D;"),
        ("q", "-" * 300),
        ("q", "https://a.example/" + "abcd" * 60),
        ("q", "x&y; `&amp;`"),
    ],
)
def test_markup_that_is_meant_is_no_junk(prompt, text):
    assert web_junk(pair(prompt, text)) is None


def test_entities_become_characters_once_and_only_with_their_semicolon():
    assert unescape_entities("a &amp;amp; b &copy 1 &lt;") == "a &amp; b &copy 1 <"
