import pytest

from backend.data.encoding_guess import SAMPLE_BYTES, encoding_advice, fitting_encoding

TEXTS = {
    "cp1252": [
        "Über allen Gipfeln ist Ruh, für mich schön",
        "L'été dernier, j'ai mangé à la crêperie",
        "Mañana será otro día",
        "“Smart quotes” – and dashes…",
        "prompt,completion\nWieviel kostet das?,Fünf Euro",
    ],
    "gb18030": ["北京的天气怎么样,晴朗,十度左右", "你叫什么名字,我叫小明", "上海呢"],
    "big5": ["北京的天氣怎麼樣,晴朗,十度左右", "你叫什麼名字,我叫小明"],
    "shift_jis": ["今日の天気はどうですか,晴れです", "こんにちは"],
    "euc_jp": ["今日の天気はどうですか,晴れです", "こんにちは"],
    "euc_kr": ["오늘 날씨는 어떻습니까,맑습니다", "안녕하세요"],
    "cp1251": ["Как дела?,Хорошо.", "Привет мир, это тест"],
    "koi8_r": ["Как дела?,Хорошо.", "Привет мир, это тест"],
    "cp866": ["Как дела?,Хорошо."],
    "cp1253": ["Καλημέρα κόσμε, τι κάνεις"],
    "cp1255": ["שלום עולם מה שלומך"],
    "cp1256": ["مرحبا بالعالم كيف حالك"],
    "cp874": ["สวัสดีชาวโลก"],
    "cp1250": ["Příliš žluťoučký kůň úpěl", "Árvíztűrő tükörfúrógép"],
    "cp1254": ["Bugün hava nasıl? Güneşli ve sıcak, teşekkürler"],
    "utf-16-le": ["今日の天気はどうですか"],
}
CASES = [(encoding, text) for encoding, texts in TEXTS.items() for text in texts]


@pytest.mark.parametrize(("encoding", "text"), CASES, ids=[f"{name}:{text[:9]}" for name, text in CASES])
def test_the_encoding_that_the_bytes_were_written_in_is_offered(encoding, text):
    assert fitting_encoding(text.encode(encoding)) == encoding


@pytest.mark.parametrize("data", [b"", b"plain ASCII\n", b"\x81\x8d" * 3])
def test_nothing_is_offered_where_nothing_fits(data):
    assert fitting_encoding(data) is None
    assert encoding_advice(data) == "set the encoding, for example cp1252"


def test_a_character_cut_at_the_end_of_the_sample_does_no_harm():
    data = "北京的天气怎么样\n".encode("gb18030") * (SAMPLE_BYTES // 16)
    assert fitting_encoding(data) == "gb18030"
    assert fitting_encoding(data[: SAMPLE_BYTES + 1]) == "gb18030"


def test_the_advice_names_the_flag():
    assert encoding_advice("für".encode("cp1252")) == "set the encoding: cp1252 fits (`data.encoding=cp1252`)"
