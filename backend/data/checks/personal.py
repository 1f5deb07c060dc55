"""Check 14: personal data, by formats that states and standards define, and their check digits where there are any.

Card numbers pass the test of ISO/IEC 7812-1 and account numbers that of ISO 13616. National numbers are those of the
United States, Canada, Brazil, Mexico, Britain, Germany, France, Spain, Italy, Poland, Belgium, Switzerland, Sweden,
Finland, India, China and South Korea; others are found by the words before them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator

from backend.data.checks.base import Check
from backend.data.records import Row
from backend.data.texts import texts

_DIGITS = re.compile(r"\d\D{0,3}\d|::[0-9A-Fa-f]")

_MAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}+@[\w-]{1,63}(?:\.[\w-]{1,63}){0,4}\.[A-Za-z]{2,24}\b")
_EXAMPLE_MAIL = re.compile(
    r"@(?:[\w-]+\.)*(?:example\.\w{2,3}(?:\.\w{2})?|\w+\.(?:example|test|invalid|local|localhost))$|"
    r"^(?:git|you|user(?:name)?|your[._-]?(?:name|email|mail)?|name|email|someone|somebody|foo|no-?reply|noreply)@",
    re.IGNORECASE,
)
_PHONE = re.compile(
    r"(?<![\w.+/-])(?:"
    r"(?:\+|00)\d{1,3}[ .-]?(?:\(0?\d{1,5}\)[ .-]?)?\d{1,5}(?:[ ./-]?\d{2,5}){1,5}|"  # international
    r"(?:\+?1[ .-]?)?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}[ .-])\d{3}[ .-]\d{4}|"  # North America
    r"\(0?\d{2,5}\)[ /-]?\d{3,8}(?:[ -]\d{2,5}){0,2}|"
    r"0\d{1,4}[ /-]{1,3}\d{3,9}(?:[ -]\d{2,5}){0,3}|"  # with the trunk digit of most of Europe, Japan and others
    r"0\d(?:[ .]\d{2}){4}|"  # France
    r"(?<!\d[ -])(?:1[3-9]\d[ -]\d{4}[ -]\d{4}|[2-9]\d{2}[ -]\d{3,4}[ -]\d{3,4})|"  # China; Spain, Poland
    r"[6-9]\d{4}[ -]\d{5}"  # India
    r")(?![\w-]|\.\w|[ -]\d)"
)
_TOLD_PHONE = re.compile(
    r"(?i:\b(?:tel|telefon|telephone|phone|mobile|mobil|cell|fax|handy|whatsapp|tél|teléfono|telefone|"
    r"call(?: me)?(?: at| on)?|ring))(?:[ .:]{1,3}|(?: (?:number|no|nr)[ .:]{1,3}(?:is )?))"
    r"(\+?[(\d][\d ()/.-]{6,20}\d)"
)
_CARD = re.compile(r"(?<![\w.-])(?:\d[ -]?){12,18}\d(?![\w.-])")
_ACCOUNT = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
_ADDRESS = re.compile(r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\d)")
_ADDRESS_6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{1,4}:|:(?=:))[0-9A-Fa-f:]{1,38}(?![\w:])")
_VERSION = re.compile(
    r"(?i)(?:\b(?:v|ver|version|release[ds]?|build|firmware|update[ds]?|upgrade[ds]?|section|chapter|clause|figure|table"
    r"|rule|part|item)|[=<>~^@]{1,2}|\bto|\bfrom)[ .:]{0,2}$"
)
_VERSION_WORDS = re.compile(r"(?i)\b(?:version|release|upgrade|firmware|changelog|build)\b")
_TOLD_NUMBER = re.compile(
    r"(?i:\b(?:ssn|social (?:security|insurance)(?: (?:number|no))?|passport (?:number|no)|"
    r"national (?:id|insurance|identity)(?: (?:number|no))?|aadhaar|aadhar|pesel|cpf|cnpj|curp|codice fiscale|"
    r"steuer-?id(?:entifikationsnummer)?|personalausweis(?:nummer)?|bsn|burgerservicenummer|personnummer|"
    r"fødselsnummer|cpr-?(?:nummer|nr)|henkilötunnus|tfn|medicare number|nric|(?:tc )?kimlik(?: no)?|"
    r"driver'?s? licen[cs]e (?:number|no)|id card (?:number|no)|snils|jmbg|"
    r"rodné číslo|nhs number|health card number|tax id(?:entification)?(?: number)?))\b[ .:#]{0,3}"
    r"(?:(?:is|no|nr|number)\b[ .:]{0,3})?([A-Z]{0,4}[ -]?\d[A-Z0-9 ./-]{4,20}[A-Z0-9])"
)


def personal_data(row: Row) -> str | None:
    """Return the kind of the first personal data in a row, None if there is none."""
    return next(filter(None, map(find_personal, texts(row))), None)


def find_personal(text: str) -> str | None:
    """Return the kind of the first personal data in a text, such as "a phone number"; None if there is none."""
    if "@" in text and any(not _EXAMPLE_MAIL.search(found.group()) for found in _MAIL.finditer(text)):
        return "an e-mail address"
    return next(_numbers(text), None) if _DIGITS.search(text) else None


def _numbers(text: str) -> Iterator[str]:
    for kind, pattern, proves in _NUMBERS:
        if any(proves(found.group()) for found in pattern.finditer(text)):
            yield kind
    if any(_is_public_in(text, found) for found in _ADDRESS.finditer(text)):
        yield "a public network address"
    if any(sum(map(str.isdigit, found.group(1))) >= 6 for found in _TOLD_NUMBER.finditer(text)):
        yield "a national number"
    if any(7 <= sum(map(str.isdigit, found.group(1))) <= 15 for found in _TOLD_PHONE.finditer(text)):
        yield "a phone number"


def passes_luhn(digits: str) -> bool:
    """Return whether 13 to 19 digits, not all equal, pass the check of ISO/IEC 7812-1 for card numbers."""
    return 13 <= len(digits) <= 19 and len(set(digits)) > 1 and _luhn(digits) == 0


def _luhn(digits: str) -> int:
    doubled = [int(digit) * (2 if place % 2 else 1) for place, digit in enumerate(reversed(digits))]
    return sum(each - 9 * (each > 9) for each in doubled) % 10


def passes_mod_97(account: str) -> bool:
    """Return whether 15 to 34 characters pass the check of ISO 13616 for account numbers."""
    turned = account[4:] + account[:4]
    return 15 <= len(account) <= 34 and int("".join(str(int(each, 36)) for each in turned)) % 97 == 1


def passes_verhoeff(digits: str) -> bool:
    """Return whether digits pass the check of Verhoeff (1969), as India's Aadhaar numbers do."""
    check = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit)
        for _ in range(place % 8):
            value = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)[value]
        check = _in_pentagon(check, value)
    return check == 0


def _in_pentagon(one: int, other: int) -> int:
    """Return the product of two elements of the pentagon's dihedral group: 0 to 4 rotate, 5 to 9 reflect."""
    if one < 5:
        return (one + other) % 5 if other < 5 else 5 + (one + other) % 5
    return 5 + (one - other) % 5 if other < 5 else (one - other) % 5


def _weighted(digits: str, weights: tuple[int, ...], modulus: int) -> int:
    return sum(int(digit) * weight for digit, weight in zip(digits, weights, strict=False)) % modulus


def _only_digits(text: str) -> str:
    return "".join(filter(str.isdigit, text))


def _is_phone(text: str) -> bool:
    digits = _only_digits(text)
    parts = re.split(r"[ ./()-]+", text.strip("() "))
    if text.startswith("00") and "000" in digits[:5]:
        return False
    grouped = text[0] in "+(0" or len(parts) >= 3 or len(parts[0]) == 5
    return 9 <= len(digits) <= 15 and len(set(digits)) > 2 and grouped


def _is_card(text: str) -> bool:
    return passes_luhn(_only_digits(text))


def _is_ssn(text: str) -> bool:
    area, group, serial = text.split(text[3])
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


def _is_cpf(text: str) -> bool:
    digits = _only_digits(text)
    checks = [11 - _weighted(digits, tuple(range(length, 1, -1)), 11) for length in (10, 11)]
    return len(set(digits)) > 1 and [each % 11 % 10 for each in checks] == [
        int(digit) for digit in digits[9:]
    ]


def _is_pesel(text: str) -> bool:
    month = int(text[2:4]) % 20
    check = (10 - _weighted(text, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3), 10)) % 10
    return 1 <= month <= 12 and 1 <= int(text[4:6]) <= 31 and check == int(text[10])


def _is_dni(text: str) -> bool:
    number = text.upper().replace("-", "").replace(" ", "")
    digits = number[:-1].translate(str.maketrans("XYZ", "012"))
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(digits) % 23] == number[-1]


def _is_resident(text: str) -> bool:
    remainder = _weighted(text, (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2), 11)
    return "10X98765432"[remainder] == text[-1].upper()


def _is_nir(text: str) -> bool:
    digits = _only_digits(text)
    return len(digits) == 15 and 97 - int(digits[:13]) % 97 == int(digits[13:])


def _is_rijksregister(text: str) -> bool:
    digits = _only_digits(text)
    return any(97 - int(f"{century}{digits[:9]}") % 97 == int(digits[9:]) for century in ("", "2"))


def _is_ahv(text: str) -> bool:
    digits = _only_digits(text)
    return (10 - _weighted(digits, (1, 3) * 6, 10)) % 10 == int(digits[12])


def _is_hetu(text: str) -> bool:
    return "0123456789ABCDEFHJKLMNPRSTUVWXY"[int(text[:6] + text[7:10]) % 31] == text[10]


def _is_public_6(text: str) -> bool:
    """Return whether a text is a global unicast IPv6 address (RFC 4291), outside the ranges for documentation."""
    try:
        return text[0] in "23" and text[4:5] == ":" and ipaddress.IPv6Address(text).is_global
    except ValueError:
        return False


def _is_public_in(text: str, found: re.Match[str]) -> bool:
    """Return whether a match is a public IPv4 address and, by the words before it, no version number."""
    try:
        is_global = ipaddress.IPv4Address(found.group()).is_global
    except ValueError:
        return False
    before = text[max(0, found.start() - 24) : found.start()]
    return is_global and not _VERSION.search(before) and not _VERSION_WORDS.search(before)


def _always(_: str) -> bool:
    return True


_NUMBERS: tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...] = (
    ("a card number", _CARD, _is_card),
    ("a bank account number (IBAN)", _ACCOUNT, lambda found: passes_mod_97(found.replace(" ", ""))),
    ("a national number", re.compile(r"(?<![\w.-])\d{3}([- ])\d{2}\1\d{4}(?![\w-]|\.\d)"), _is_ssn),
    ("a national number", re.compile(r"(?<![\w.-])\d{3}\.\d{3}\.\d{3}-\d{2}(?![\w-])"), _is_cpf),
    ("a national number", re.compile(r"(?<![\w.-])\d{11}(?![\w-]|\.\d)"), _is_pesel),
    (
        "a national number",  # Britain; Q and the like are kept for examples
        re.compile(
            r"\b(?!BG|GB|NK|KN|TN|NT|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z]"
            r"(?: ?\d{2} \d{2} \d{2} ?[A-D]|\d{6} ?[A-D])\b"
        ),
        _always,
    ),
    (
        "a national number",
        re.compile(r"(?<![\w.+-])[2-9]\d{3}([ -])\d{4}\1\d{4}(?![\w-]|[ .]\d)"),
        lambda found: passes_verhoeff(_only_digits(found)),
    ),
    (
        "a national number",
        re.compile(r"(?<![\w.-])(?:\d{8}|[XYZ]-?\d{7})[ -]?[A-HJ-NP-TV-Z](?![\w-])"),
        _is_dni,
    ),
    ("a national number", re.compile(r"\b[A-Z]{6}\d{2}[A-EHLMPRST]\d{2}[A-Z]\d{3}[A-Z]\b"), _always),
    ("a national number", re.compile(r"\b[A-Z]{4}\d{6}[HM][A-Z]{5}[A-Z0-9]\d\b"), _always),
    ("a national number", re.compile(r"(?<![\w.-])[1-9]\d{5}(?:19|20)\d{9}[\dXx](?![\w-])"), _is_resident),
    (
        "a national number",  # South Korea
        re.compile(r"(?<![\w.-])\d{2}(?:0[1-9]|1[0-2])(?:[0-2]\d|3[01])-[1-8]\d{6}(?![\w-])"),
        _always,
    ),
    (
        "a national number",
        re.compile(r"(?<![\w.-])[12] ?\d{2} ?\d{2} ?\d{2} ?\d{3} ?\d{3} ?\d{2}(?![\w-])"),
        _is_nir,
    ),
    (
        "a national number",
        re.compile(r"(?<![\w.-])\d{2}\.\d{2}\.\d{2}-\d{3}\.\d{2}(?![\w-])"),
        _is_rijksregister,
    ),
    ("a national number", re.compile(r"(?<![\w.-])756\.\d{4}\.\d{4}\.\d{2}(?![\w-])"), _is_ahv),
    ("a national number", re.compile(r"(?<![\w.-])\d{6}[-+A-F]\d{3}[0-9A-FHJ-NPR-Y](?![\w-])"), _is_hetu),
    (
        "a national number",  # Sweden: date, number and the check of ISO/IEC 7812-1
        re.compile(r"(?<![\w.-])(?:19|20)?\d{2}(?:0[1-9]|1[0-2])(?:[0-2]\d|3[01])[-+]\d{4}(?![\w-])"),
        lambda found: _luhn(_only_digits(found)[-10:]) == 0,
    ),
    ("a national number", re.compile(r"\b[A-Z]{3}[ABCFGHJLPT][A-Z]\d{4}[A-Z]\b"), _always),  # India's PAN
    ("a phone number", _PHONE, _is_phone),
    ("a public network address", _ADDRESS_6, _is_public_6),
)

PERSONAL_CHECKS = (
    Check(
        14,
        "personal-data",
        "Texts hold personal data",
        "warn",
        "A model can be made to repeat it; make sure you may use it and that it is needed.",
        by_row=personal_data,
    ),
)
