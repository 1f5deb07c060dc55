import re
from pathlib import Path

import pytest

from backend.data.checks.secrets import SECRETS, find_secret, redact, secret
from tests.backend.data.rows import assistant, chat, pair, user
from tests.house import APP, BACKEND

MIXED = "a1B2c3D4e5F6g7H8i9J0" * 6
HEX = "0a1b2c3d4e5f6789" * 6

KEYS = {
    "private key": f"-----BEGIN RSA PRIVATE KEY-----\n{MIXED[:64]}\n{MIXED[:64]}\n-----END RSA PRIVATE KEY-----",
    "AWS access key": "ASIA" + "A1" * 8,
    "AWS secret key": f"aws_secret_access_key = {MIXED[:40]}",
    "GitHub token": "github_pat_" + "a1_" * 20,
    "GitLab token": "glpat-" + "a1" * 10,
    "Anthropic key": "sk-ant-" + "a1" * 12,
    "OpenAI key": "sk-proj-" + "a1" * 20,
    "Groq key": f"gsk_{MIXED[:52]}",
    "xAI key": f"xai-{MIXED[:80]}",
    "Perplexity key": f"pplx-{MIXED[:48]}",
    "Replicate token": f"r8_{MIXED[:37]}",
    "Slack token": "xoxb-" + "12345-abcde",
    "webhook": f"https://hooks.slack.com/services/T01234567/B01234567/{MIXED[:24]}",
    "Discord token": f"M{MIXED[:23]}.{MIXED[:6]}.{MIXED[:30]}",
    "Telegram token": f"123456789:AA{MIXED[:33]}",
    "Google API key": "AIza" + "a" * 35,
    "Google token": f"GOCSPX-{MIXED[:28]}",
    "Hugging Face token": "hf_" + "aB" * 17,
    "npm token": f"npm_{MIXED[:36]}",
    "PyPI token": f"pypi-AgEIcHlwaS5vcmc{MIXED[:60]}",
    "RubyGems key": f"rubygems_{HEX[:48]}",
    "Docker token": f"dckr_pat_{MIXED[:27]}",
    "Databricks token": f"dapi{HEX[:32]}",
    "DigitalOcean token": f"dop_v1_{HEX[:64]}",
    "Stripe key": "sk_live_" + "a1" * 10,
    "Twilio key": f"SK{HEX[:32]}",
    "SendGrid key": "SG." + "a" * 22 + "." + "b" * 43,
    "Mailgun key": f"key-{HEX[:32]}",
    "Mailchimp key": f"{HEX[:32]}-us12",
    "Shopify token": f"shpat_{HEX[:32]}",
    "Square token": f"sq0atp-{MIXED[:22]}",
    "Facebook token": f"EAAB{MIXED[:80]}",
    "Notion token": f"secret_{MIXED[:43]}",
    "Linear key": f"lin_api_{MIXED[:40]}",
    "Figma token": f"figd_{MIXED[:40]}",
    "Postman key": f"PMAK-{HEX[:24]}-{HEX[:34]}",
    "Atlassian token": f"ATATT3{MIXED}",
    "Vault token": f"hvs.{MIXED[:24]}",
    "Terraform token": f"{MIXED[:14]}.atlasv1.{MIXED[:67]}",
    "Grafana token": f"glsa_{MIXED[:32]}_{HEX[:8]}",
    "New Relic key": f"NRAK-{'A1B2C3D4E' * 3}",
    "Sentry token": f"sntrys_{MIXED[:64]}",
    "PlanetScale token": f"pscale_tkn_{MIXED[:43]}",
    "Supabase token": f"sbp_{HEX[:40]}",
    "Doppler token": f"dp.pt.{MIXED[:43]}",
    "Azure key": f"AccountName=x;AccountKey={MIXED[:86]}==;",
    "Azure secret": f"abc8Q~{MIXED[:34]}",
    "JSON web token": "eyJ" + "a" * 12 + ".eyJ" + "b" * 12 + "." + "c" * 12,
    "authorization": f"Authorization: Bearer {MIXED[:40]}",
    "password in a URL": "https://me:secret1@host.org",
    "API key": f"api_key: '{MIXED[:32]}'",
    "password": 'DB_PASSWORD="Tr0ub4dor&3"',
}


@pytest.mark.parametrize("kind", KEYS)
def test_each_kind_of_secret_is_found_and_redacted(kind):
    text = f"use {KEYS[kind]} now"
    assert find_secret(text)[0] == kind
    assert f"[{kind}]" in redact(text)
    assert redact(text).endswith(" now")
    assert find_secret(redact(text)) is None


def test_every_pattern_has_a_case():
    assert set(KEYS) == {each.kind for each in SECRETS}


def test_both_kinds_of_github_token_are_found():
    assert find_secret("ghp_" + "a1" * 18)[0] == "GitHub token"


def test_a_secret_is_never_shown_whole():
    assert KEYS["GitHub token"] not in secret(pair("q", KEYS["GitHub token"]))
    assert secret(pair("q", "a")) is None


@pytest.mark.parametrize(
    "text",
    [
        "AKIAIOSFODNN7EXAMPLE",
        "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "postgresql://user:password@localhost:5432/mydb",
        "mongodb://<username>:<password>@cluster0.example.mongodb.net/test",
        "export https_proxy=http://$USER:$PASS@proxy.example.com:3128",
        "redis://:${REDIS_PASSWORD}@host",
        "amqp://guest:guest@localhost",
        "https://a.example:80/x",
        "sk-learn-contrib-imbalanced-learn-datasets",
        "sk-toggleable__label-arrow-and-more-words-1",
        "hf_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        "Authorization: Bearer YOUR_API_KEY_GOES_HERE",
        "Bearer <token>",
        "basic internationalization of it",
        "password = os.environ['DB_PASSWORD']",
        "password=getpass.getpass()",
        "password: str = 'x'",
        "Password: must be 12 characters",
        "api_key=os.getenv('OPENAI_API_KEY')",
        "api key: YOUR-API-KEY-1234567890",
        "token = self.next_token1",
        "pwd: /home/user1",
    ],
)
def test_placeholders_and_code_are_no_secrets(text):
    assert find_secret(text) is None
    assert redact(text) == text


def test_a_key_of_several_lines_is_taken_out_whole():
    lines = f"{MIXED[:64]}\n{MIXED[:20]}"
    for text in (
        f"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\n{lines}\n-----END RSA PRIVATE KEY-----",
        f"-----BEGIN PRIVATE KEY-----\n{MIXED[:64]}",
    ):
        assert redact(f"It is {text}, see?") == "It is [private key], see?"
    assert redact("It begins with -----BEGIN PRIVATE KEY-----, then") == "It begins with [private key], then"


def test_calls_reasoning_and_tools_are_looked_at():
    key = KEYS["GitHub token"]
    call = {"type": "function", "function": {"name": "f", "arguments": {"token": key}}}
    assert secret(chat(user("q"), assistant("", tool_calls=[call])))
    assert secret(chat(user("q"), assistant("a", reasoning_content=key)))
    assert secret(chat(user("q"), assistant("a"), tools=f'[{{"name": "{key}"}}]'))


@pytest.mark.parametrize("path", [*BACKEND, *APP], ids=lambda path: path.stem)
def test_no_pattern_repeats_a_group_possessively(path: Path) -> None:
    """Python before 3.11.5 loses its place in one (gh-106052): a private key was left in the text there."""
    assert re.findall(r"\)(?:[*+?]|\{[\d,]+\})\+[^+].*", path.read_text(encoding="utf-8")) == []
