import pytest

from backend.data.checks.contents import script_of


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("hello world", "LATIN"),
        ("это ответ", "CYRILLIC"),
        ("日本の文章です", "JAPANESE"),
        ("中文句子在这里", "CJK"),
        ("42 + 1", ""),
        ("", ""),
        ("SELECT 1", "LATIN"),
        ("日本 hello world", "LATIN"),
    ],
)
def test_script_of(text, script):
    assert script_of(text) == script
