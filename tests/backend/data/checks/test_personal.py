import pytest

from backend.data.checks.personal import (
    find_personal,
    passes_luhn,
    passes_mod_97,
    passes_verhoeff,
    personal_data,
)
from tests.backend.data.rows import pair


@pytest.mark.parametrize(
    ("digits", "good"), [("4111111111111111", True), ("4111111111111112", False), ("0" * 16, False)]
)
def test_passes_luhn(digits, good):
    assert passes_luhn(digits) is good


@pytest.mark.parametrize(
    ("account", "good"), [("DE89370400440532013000", True), ("DE88370400440532013000", False)]
)
def test_passes_mod_97(account, good):
    assert passes_mod_97(account) is good


@pytest.mark.parametrize(
    ("digits", "good"), [("2363", True), ("2364", False), ("123451", True), ("123415", False)]
)
def test_passes_verhoeff(digits, good):
    assert passes_verhoeff(digits) is good


FOUND = {
    "an e-mail address": ["jane.doe@mail.de", "first_last+tag@sub.firm.co.uk"],
    "a card number": ["4111 1111 1111 1111", "5500005555555559"],
    "a bank account number (IBAN)": ["DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432"],
    "a public network address": ["8.8.8.8", "2a00:1450:4001:830::200e"],
    "a phone number": [
        *("+44 20 7946 0958", "+49-170-123-4567", "+1 555 123 4567", "0171 1234567", "030/901820 12"),
        *(
            "(030) 123456",
            "0049 30 1234567",
            "06 12 34 56 78",
            "07700 900123",
            "(555) 123-4567",
            "555.123.4567",
        ),
        *("98765 43210", "03-1234-5678", "138 0013 8000", "+55 11 91234-5678", "phone: 5551234567"),
    ],
    "a national number": [
        *("536-22-1234", "529.982.247-25", "44051401359", "AB 12 34 56 C", "2345 6789 0124", "12345678Z"),
        *("X1234567L", "RSSMRA85T10A562S", "HEGG560427MVZRRL04", "11010519491231002X", "900101-1234567"),
        *("1 84 12 76 451 089 46", "85.07.30-033.28", "756.9217.0769.85", "131052-308T", "19811218-9876"),
        *("ABCPE1234F", "SSN 123456789", "passport number X1234567", "BSN: 123456782"),
    ],
}


@pytest.mark.parametrize(("kind", "text"), [(kind, each) for kind, given in FOUND.items() for each in given])
def test_personal_data_of_many_countries_are_found(kind, text):
    assert find_personal(f"It is {text} now.") == kind


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "no data here",
            "10.0.0.1",
            "ISBN 978-3-16-148410-0",
            "2020-01-02 10:00",
            "@handle",
            "1,000,000,000",
        ),
        *("it rose by +3 10 points", "add +12 345", "100-200-3000", "1000 2000 3000", "1234 5678 9012 3456"),
        *("Version 3.11.4.1 fixed it", "pip install x==1.2.3.4", "upgrade to 4.18.0.25", "chapter 1.2.3.4"),
        *("std::vector a::b", "12:30:45", "aa:bb:cc:dd:ee:ff", "2001:db8::1", "git@github.com:u/r.git"),
        *(
            "you@example.com",
            "me@mail.example",
            "QQ 12 34 56 C",
            "12345678A",
            "529.982.247-24",
            "44051401358",
        ),
        *("000-12-3456", "x = 3.14159265358979", "RFC 2616 and 7230", "20240101-1234"),
    ],
)
def test_ordinary_text_holds_no_personal_data(text):
    assert find_personal(text) is None


def test_every_text_of_a_row_is_looked_at():
    assert personal_data(pair("q", "write to jane.doe@mail.de")) == "an e-mail address"
    assert personal_data(pair("q", "a")) is None
