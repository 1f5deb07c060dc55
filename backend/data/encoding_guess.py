"""Suggest an encoding for bytes that are not UTF-8; a person decides, it is never applied by itself.

Each candidate must decode the bytes without an error. The one wins whose text has the largest share of letters that
are frequent in its languages. The lists below are the most frequent letters of ordinary text in each script.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from backend.errors import marked

SAMPLE_BYTES = 65_536
ADVICE = "set the encoding"
LARGE_SCRIPT_WEIGHT = 1.5
"""A frequent letter among thousands, as in Chinese, says more than one in an alphabet of thirty."""
LEAST_SHARE = 0.3
"""Below this share of frequent letters nothing is suggested."""

_SIMPLIFIED = frozenset(
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家种事成方多"
    "经么去法学如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实日军者意无力它与长把机十民第公此已工使情明性知"
    "全三又关点正业外将两高间由问很最重并物手应战向头文体政美相见被利什二等产或新己制身果加月话合回特代内信表化老给世位次度门任常"
    "先海通教儿原东声提立及比员解水名真论处走义各入几口认条平系气题活更别打女变四神总何电数安少报才结反受目太量再感建务做接必"
    "吗呢吧请谢怎字叫京雨晴"
)
_TRADITIONAL = frozenset(
    "的一是不了在人有我他這個們中來上大為和國地到以說時要就出會可也你對生能而子那得於著下自之年過發後作裡用道行所然家種事成方多"
    "經麼去法學如都同現當沒動面起看定天分還進好小部其些主樣理心她本前開但因只從想實日者意無力它與長把機十民第公此已工使情明性知"
    "全三又關點正業外將兩高間由問很最重並物手應向頭文體美相見被利什二等產或新己制身果加月話合回特代內信表化老給世位次度門任常"
    "嗎呢吧請謝怎字叫京雨晴"
)
_HANGUL = frozenset(
    "이다는가에의을하고를은로한지기도사나자어리서시아해대인들그있수라만정일전부것요보구제여니장주스무상과와성안없게우원소문동생공국"
    "습까네세오늘날씨떻안녕감말입면할때된적중더같위물방"
)
_KANA = frozenset(chr(code) for code in (*range(0x3041, 0x3097), *range(0x30A1, 0x30FB)))
_CYRILLIC = frozenset("оеаинтсрвлкмдпуяыьгзбчйх")
_GREEK = frozenset("αοιετσνηυρπκμλωςγδθχίόέάήώύ")
_HEBREW = frozenset(chr(code) for code in range(0x5D0, 0x5EB))
_ARABIC = frozenset("اليمونرتبةعدسفهكحق")
_THAI = frozenset("ารนอกเงมยลวดทสตะปบคหไแใัิีุู่้์็")
_WESTERN = frozenset("äöüßéèêëàáâãåæçñíìîïóòôõøúùûœÄÖÜÉÀÈÅØÇÑ’‘“”„–—…•€£§°«»ºª¿¡·®©")
_CENTRAL = frozenset("ąćęłńóśźżĄĆĘŁŃŚŹŻáčďéěíňřšťúůýžÁČĎÉĚÍŇŘŠŤÚŮÝŽőűäöüßăâ’“”„–…")
_TURKISH = frozenset("ığüşöçâîûİĞÜŞÖÇ’‘“”–…")


def _share(text: str, frequent: frozenset[str]) -> float:
    """Return the weighted share of the letters beyond ASCII that are frequent, for scripts of many letters."""
    foreign = [letter for letter in text if not letter.isascii() and letter.isalpha()]
    if not foreign:
        return 0.0
    return LARGE_SCRIPT_WEIGHT * sum(letter in frequent for letter in foreign) / len(foreign)


def _alphabet(text: str, frequent: frozenset[str]) -> float:
    """Return the share of characters beyond ASCII that are frequent letters and touch no Latin letter."""
    foreign = good = 0
    for before, letter, after in zip(f" {text}", text, f"{text[1:]} ", strict=False):
        if letter.isascii():
            continue
        foreign += 1
        mixed = any(each.isascii() and each.isalpha() for each in (before, after))
        good += letter in frequent and not mixed
    return good / foreign if foreign else 0.0


def _accented(text: str, frequent: frozenset[str]) -> float:
    """Return the share of characters beyond ASCII that are frequent and stand where accents and signs do.

    Letters touch Latin letters or stand alone; signs do not stand inside a word, except an apostrophe.
    """
    foreign = good = 0
    for before, letter, after in zip(f" {text}", text, f"{text[1:]} ", strict=False):
        if letter.isascii():
            continue
        foreign += 1
        beside = [each.isascii() for each in (before, after) if each.isalpha()]
        fits = (any(beside) or not beside) if letter.isalpha() else len(beside) < 2 or letter == "’"
        good += letter in frequent and fits
    return good / foreign if foreign else 0.0


_CANDIDATES: Mapping[str, Callable[[str], float]] = {
    "cp1252": partial(_accented, frequent=_WESTERN),
    "gb18030": partial(_share, frequent=_SIMPLIFIED),
    "big5": partial(_share, frequent=_TRADITIONAL),
    "shift_jis": partial(_share, frequent=_KANA),
    "euc_jp": partial(_share, frequent=_KANA),
    "euc_kr": partial(_share, frequent=_HANGUL),
    "cp1251": partial(_alphabet, frequent=_CYRILLIC),
    "koi8_r": partial(_alphabet, frequent=_CYRILLIC),
    "cp866": partial(_alphabet, frequent=_CYRILLIC),
    "cp1253": partial(_alphabet, frequent=_GREEK),
    "cp1255": partial(_alphabet, frequent=_HEBREW),
    "cp1256": partial(_alphabet, frequent=_ARABIC),
    "cp874": partial(_alphabet, frequent=_THAI),
    "cp1250": partial(_accented, frequent=_CENTRAL),
    "cp1254": partial(_accented, frequent=_TURKISH),
    "utf-16-le": partial(_share, frequent=_SIMPLIFIED | _TRADITIONAL | _HANGUL | _KANA | _CYRILLIC),
    "utf-16-be": partial(_share, frequent=_SIMPLIFIED | _TRADITIONAL | _HANGUL | _KANA | _CYRILLIC),
}


def fitting_encoding(data: bytes) -> str | None:
    """Return the encoding that fits bytes best, or None where none fits well.

    Of more than ``SAMPLE_BYTES`` only the whole lines among the first count.
    """
    if data.isascii():
        return None
    whole = data if len(data) < SAMPLE_BYTES else data[: data.rfind(b"\n", 0, SAMPLE_BYTES) + 1] or data
    shares = {name: _fit(whole, name, fit) for name, fit in _CANDIDATES.items()}
    best = max(shares, key=lambda name: shares[name])
    return best if shares[best] >= LEAST_SHARE else None


def encoding_advice(data: bytes) -> str:
    """Return the part of a sentence that advises which encoding to set for bytes that are not UTF-8."""
    fitting = fitting_encoding(data)
    return (
        f"{ADVICE}: {fitting} fits ({marked('data.encoding', fitting)})"
        if fitting
        else f"{ADVICE}, for example cp1252"
    )


def _fit(data: bytes, encoding: str, share: Callable[[str], float]) -> float:
    if encoding.startswith("utf-16"):
        data = data[: len(data) // 2 * 2]
    try:
        return share(data.decode(encoding))
    except UnicodeDecodeError:
        return 0.0
