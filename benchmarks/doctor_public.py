"""Faults and clean rows from public lists, so that the doctor is measured on what it did not invent.

Formats of tokens are those that issuers and scanners document (GitHub's list of supported secrets, the token prefixes
in the documentation of GitLab, Stripe, Slack and others), filled with random letters. National numbers are examples
of the states' own documents and of encyclopedias, made valid. Refusals are phrasings that published filters of
instruction sets look for. The clean shapes are small sets of the kinds that people publish.
"""

from __future__ import annotations

import json
import random
import re
import string
from collections.abc import Iterator

from backend.data.records import Message, Row

_ALPHABETS = {
    "a": string.ascii_letters + string.digits,
    "h": "0123456789abcdef",
    "U": string.ascii_uppercase + string.digits,
    "l": string.ascii_lowercase + string.digits,
    "d": string.digits,
    "b": string.ascii_letters + string.digits + "+/",
    "w": string.ascii_letters + string.digits + "_-",
}

SECRETS = [
    *("AKIA{U16}", "ASIA{U16}", "aws_secret_access_key = {b40}", '"SecretAccessKey": "{b40}"'),
    *(
        "ghp_{a36}",
        "gho_{a36}",
        "ghs_{a36}",
        "github_pat_{a22}_{a59}",
        "glpat-{a20}",
        "glrt-{a20}",
        "gldt-{a20}",
    ),
    *(
        "npm_{a36}",
        "pypi-AgEIcHlwaS5vcmc{w100}",
        "rubygems_{h48}",
        "dckr_pat_{w27}",
        "dapi{h32}",
        "dop_v1_{h64}",
    ),
    *("xoxb-{d12}-{d13}-{a24}", "xoxp-{d12}-{d12}-{d13}-{h32}", "xapp-1-A{U10}-{d13}-{h64}"),
    "https://hooks.slack.com/services/T{U10}/B{U10}/{a24}",
    "https://discord.com/api/webhooks/{d18}/{w68}",
    "M{a23}.{w6}.{w38}",
    "{d10}:AA{w33}",
    *("AIza{w35}", "ya29.a0{w120}", "GOCSPX-{w28}", "1//0{w60}"),
    *("sk-{a48}", "sk-proj-{w60}", "sk-ant-api03-{w93}AA", "gsk_{a52}", "r8_{a37}", "hf_{a34}", "xai-{a80}"),
    *(
        "sk_live_{a24}",
        "sk_test_{a24}",
        "rk_live_{a24}",
        "whsec_{a32}",
        "SK{h32}",
        "SG.{w22}.{w43}",
        "key-{h32}",
    ),
    *("{h32}-us14", "shpat_{h32}", "shpss_{h32}", "sq0csp-{w43}", "EAACEdEose0cBA{a80}"),
    "DefaultEndpointsProtocol=https;AccountName=shop;AccountKey={b86}==;EndpointSuffix=core.windows.net",
    "a{a2}8Q~{a34}",
    *(
        "secret_{a43}",
        "ntn_{d11}{a35}",
        "lin_api_{a40}",
        "figd_{w40}",
        "PMAK-{h24}-{h34}",
        "ATATT3xFfGF0{w170}",
    ),
    *(
        "hvs.{w90}",
        "{a14}.atlasv1.{w67}",
        "glsa_{a32}_{h8}",
        "NRAK-{U27}",
        "sntrys_{a120}",
        "pscale_tkn_{w43}",
    ),
    *("sbp_{h40}", "dp.st.prd.{a40}", "dp.pt.{a43}"),
    "eyJhbGciOiJIUzI1NiJ9.eyJ{a40}.{w43}",
    "-----BEGIN RSA PRIVATE KEY-----\n{b64}\n{b64}\n-----END RSA PRIVATE KEY-----",
    "-----BEGIN OPENSSH PRIVATE KEY-----\n{b70}\n{b70}\n-----END OPENSSH PRIVATE KEY-----",
    *("Authorization: Bearer {a40}", "authorization: Basic {b38}==", "curl -H 'Authorization: token {h40}'"),
    *("postgres://app:{a12}@db.internal:5432/shop", "mongodb+srv://admin:{l10}@c0.mongodb.net/x"),
    *("redis://:{a16}@cache.internal:6379", "https://deploy:{a20}@git.firm.org/x.git"),
    *(
        "password: {a8}7!",
        "DB_PASSWORD={a10}9",
        "passwd = '{a9}#4'",
        '"client_secret": "{a32}"',
        "api_key={h32}",
    ),
    *("API_KEY: {a40}", "access_token = '{a40}'", "auth-token: {h40}"),
]

PERSONAL = [
    *("jane.doe@mail.de", "first_last+tag@sub.firm.co.uk", "o.nakamura@kaisha.co.jp", "maria@empresa.com.br"),
    *("+49 170 1234567", "0171 2345678", "030/90182012", "+49 (0)30 901820", "089 / 233 96500"),
    *("(555) 123-4567", "555-123-4567", "+1 415-555-2671", "415.555.2671", "1-800-555-0199"),
    *("+44 20 7946 0958", "020 7946 0958", "07700 900123", "06 12 34 56 78", "+33 6 12 34 56 78"),
    *("+34 612 345 678", "612 345 678", "+39 02 1234 5678", "(11) 91234-5678", "+55 11 91234-5678"),
    *(
        "+91 98765 43210",
        "98765 43210",
        "03-1234-5678",
        "090-1234-5678",
        "138 0013 8000",
        "+86 138 0013 8000",
    ),
    *("601 234 567", "+48 601 234 567", "+7 912 345-67-89", "+41 44 668 18 00", "Tel. 5550123456"),
    *("4111 1111 1111 1111", "5500005555555559", "3782 822463 10005", "6011-1111-1111-1117"),
    *("DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432", "FR1420041010050500013M02606"),
    *("NL91ABNA0417164300", "CH93 0076 2011 6238 5295 7", "ES91 2100 0418 4502 0005 1332"),
    *("8.8.8.8", "93.184.216.34", "2a00:1450:4001:830::200e", "2606:2800:220:1:248:1893:25c8:1946"),
    *("536-22-1234", "SSN: 219 09 9999", "529.982.247-25", "AB 12 34 56 C", "JG103759A", "2345 6789 0124"),
    *("44051401359", "PESEL 02070803628", "12345678Z", "X1234567L", "RSSMRA85T10A562S", "HEGG560427MVZRRL04"),
    *("11010519491231002X", "900101-1234567", "1 84 12 76 451 089 46", "85.07.30-033.28", "756.9217.0769.85"),
    *("131052-308T", "19811218-9876", "ABCPE1234F", "BSN 111222333", "passport number C01X00T47"),
]

REFUSALS = [
    *("As an AI language model, I cannot do that.", "As a language model, I don't have a body."),
    *(
        "As a large language model trained by a company, I can't say.",
        "As an artificial intelligence, I have none.",
    ),
    *("I'm sorry, but I can't help with this request.", "I’m sorry, but I can’t assist with that."),
    *(
        "I am sorry, but I cannot provide that.",
        "Sorry, but I can't do that.",
        "Sorry, I am unable to help you.",
    ),
    *("I cannot assist with that.", "I can't comply with this.", "I cannot fulfill your request."),
    *("I'm unable to help with this.", "I am not able to provide legal advice.", "I won't help with that."),
    *("I’m just an AI and have no opinion.", "I am a language model and have no family."),
    *(
        "I don't have personal opinions.",
        "I do not have access to real-time data.",
        "My knowledge cutoff is 2021.",
    ),
    *("I apologize, but I cannot create such content.", "I must decline: it would be unethical to answer."),
    *("My training data only goes up to 2021.", "It is not appropriate for me to discuss this."),
    "I'm afraid I can't do that.",
]

PLACEHOLDERS = [
    *(
        "[Your Name]",
        "[Company Name]",
        "[YOUR NAME]",
        "[INSERT DATE]",
        "[Recipient's Name]",
        "[Date]",
        "[Address]",
    ),
    *(
        "[Your Phone Number]",
        "[insert your city here]",
        "[Client Name]",
        "[Job Title]",
        "[University]",
        "[TBD]",
    ),
    *("<name>", "<your name>", "<YOUR API KEY>", "<first_name>", "<company>", "<insert date>", "<email>"),
    *(
        "{name}",
        "{first_name}",
        "{company}",
        "{city}",
        "{{name}}",
        "{{ user.city }}",
        "{{x}}",
        "{{first_name}}",
    ),
    *("XXXXX", "lorem ipsum", "[TODO: fill in]"),
]

MARKUP = [
    *(
        "<|im_start|>user",
        "<|im_end|>",
        "[INST]",
        "[/INST]",
        "<<SYS>>",
        "</s>",
        "<|eot_id|>",
        "<|start_header_id|>",
    ),
    *(
        "<|header_start|>",
        "<|eot|>",
        "<|python_tag|>",
        "[SYSTEM_PROMPT]",
        "[/AVAILABLE_TOOLS]",
        "[TOOL_CALLS]",
    ),
    *(
        "<start_of_turn>",
        "<end_of_turn>",
        "<|user|>",
        "<|assistant|>",
        "<|end|>",
        "<｜User｜>",
        "<｜Assistant｜>",
    ),
    *(
        "<｜end▁of▁sentence｜>",
        "<|START_OF_TURN_TOKEN|>",
        "<|CHATBOT_TOKEN|>",
        "<|start_of_role|>",
        "[gMASK]",
    ),
    *("<|channel|>", "<|return|>", "<|endoftext|>", "<|im_middle|>", "<bos>", "<eos>", "<|end_of_turn|>"),
    *(
        "\n### Response:\n",
        "\n### Instruction:\n",
        "\n### Human: Hi\n",
        "\n### Assistant: Hi\n",
        "\nHuman: Hi\n",
    ),
    *("\nUSER: Hi\n", "\nASSISTANT: Hi\n", "\nAssistant: Hi\n", "\nGPT4 Correct User: Hi\n"),
]

JUNK = [
    *('<div class="x"><p>a</p></div>', "<p>One.</p> <p>Two.</p>", "<br><br><br/>", "<ul><li>a</li></ul>"),
    *("a &amp; b", "it&#39;s", "x&nbsp;y", "&lt;3", "caf&eacute;", "&ldquo;so&rdquo;", "&#x27;s", "5&deg;"),
    *("iVBORw0KGgoAAAANSUhEUg" * 12, "QUJD" * 60),
]

NOTHING = ["NA", "N/A", "nan", "None", "null", "-", "?", "undefined", "n/a", "NULL"]
BLANK = ["", " ", "\n\n", "\t", "\u00a0", "\u200b", "\ufeff", "\u200b\u200d", "\u2060", "\u3000"]


def filled(template: str, dice: random.Random) -> str:
    """A template such as ``npm_{a36}`` with random letters of the alphabet and number that it names."""

    def letters(found: re.Match[str]) -> str:
        return "".join(dice.choices(_ALPHABETS[found[1]], k=int(found[2])))

    return re.sub(r"\{([ahUldbw])(\d+)\}", letters, template)


def secrets() -> list[str]:
    """One token of each format."""
    dice = random.Random(7)  # noqa: S311 - dice, no secret
    return [filled(template, dice) for template in SECRETS]


# --- clean sets of the kinds that people publish -------------------------------------------------------------

_THINGS = "river copper violin harvest glacier lantern saddle thunder marble orchid candle anchor".split()  # noqa: SIM905
_PLACES = "Lisbon Osaka Nairobi Quito Oslo Hanoi Cairo Perth".split()  # noqa: SIM905


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _assistant(text: str, **more: object) -> Message:
    return {"role": "assistant", "content": text, **more}


def _chats(name: str, chats: Iterator[tuple[Message, ...]], **more: str) -> list[Row]:
    return [Row(f"{name}:{number}", messages=each, **more) for number, each in enumerate(chats, 1)]


def _pairs(name: str, pairs: Iterator[tuple[str, str]]) -> list[Row]:
    return _chats(name, ((_user(asked), _assistant(said)) for asked, said in pairs))


def _calls() -> Iterator[tuple[Message, ...]]:
    for hour in range(6, 22):
        for minute in (0, 15, 30, 45):
            arguments = {"time": f"{hour:02}:{minute:02}", "label": "wake up"}
            call = {
                "type": "function",
                "function": {"name": "set_alarm", "arguments": arguments},
                "id": f"c{hour}",
            }
            yield (_user("Please set the alarm for tomorrow, as we said."), _assistant("", tool_calls=[call]))


def _with_results() -> Iterator[tuple[Message, ...]]:
    for place in _PLACES:
        for thing in _THINGS:
            call = {
                "type": "function",
                "function": {"name": "search", "arguments": {"q": f"{thing} {place}"}},
                "id": "c",
            }
            found = {
                "role": "tool",
                "content": json.dumps({"shops": [f"{thing} house"]}),
                "tool_call_id": "c",
            }
            asked = _user(f"Where do I find a {thing} in {place}?")
            yield (
                asked,
                _assistant("", tool_calls=[call]),
                found,
                _assistant(f"Try the {thing} house in {place}."),
            )


def _greetings() -> Iterator[tuple[Message, ...]]:
    for place in _PLACES:
        for thing in _THINGS:
            begun = (_user("Hi"), _assistant("Hello! How can I help you today?"))
            yield (
                *begun,
                _user(f"Tell me of the {thing} in {place}."),
                _assistant(f"The {thing} of {place} is older than its walls, people say."),
            )


def _passages() -> Iterator[tuple[str, str]]:
    for place in _PLACES:
        text = " ".join(
            f"The {thing} of {place} was brought by traders in the year of the {thing}." for thing in _THINGS
        )
        for thing in _THINGS[:6]:
            yield (
                f"{text}\n\nWas the {thing} mentioned before the others?",
                "yes" if thing == "river" else "no",
            )
            yield (
                f"{text}\n\nWho brought the {thing} there, and when was that?",
                f"Traders brought it to {place} in the year of the {thing}.",
            )


_CODE = [
    ("Write a function that adds {n} in Python", "```python\ndef add(x):\n    return x + {n}\n```"),
    ("Fix this:\nfor i in range({n}):\nprint(i)", "for i in range({n}):\n    print(i)"),
    ("Loop over {n} users in Jinja", "{{% for u in users[:{n}] %}}{{{{ u.name }}}}{{% endfor %}}"),
    ("Print item {n} in JavaScript", "console.log(`Item ${{items[{n}].name}} costs ${{price}}`);"),
    ("A list of {n} entries in HTML", "<ul>\n  <li>a</li>\n  <li>{n}</li>\n</ul>"),
    ("Select the first {n} rows", "SELECT name, email FROM users WHERE id = $1 LIMIT {n};"),
    ("A GitHub action that prints build {n}", "- run: echo ${{{{ github.ref }}}} {n}"),
    ("Connect to database {n}", "conn = connect(host, password=os.environ['DB_PASSWORD_{n}'])"),
    ("Mask bit {n} in C", "if (flags && mask & (1 << {n})) {{ count++; }}"),
    ("How do I escape tag {n} in HTML?", "Write &lt;h{n}&gt; in the source."),
    ("Which bash line deletes {n} days?", 'find . -name "*.log" -mtime +{n} -delete'),
    ("Write the React prop {n}", "<Item key={{{n}}} name={{name}} />"),
]


def _code() -> Iterator[tuple[str, str]]:
    for number in range(2, 9):
        yield from ((asked.format(n=number), said.format(n=number)) for asked, said in _CODE)


def _links() -> Iterator[tuple[str, str]]:
    for place in _PLACES:
        for thing in _THINGS:
            page = f"https://api.example.org/{place.lower()}/report?year=2024&region=eu&section={len(thing)}&copy=1"
            yield (
                f"Which page lists the {thing} of {place}?",
                f"See {page}&item={thing} or www.example.org/{thing}.",
            )


_SCRIPTS = [
    ("{} из {} стоит у реки?", "Да, {} из {} стоит там давно."),
    ("{}在{}的哪里?", "{}在{}的河边,离桥不远。"),
    ("أين يوجد {} في {}؟", "يوجد {} في {} قرب النهر."),
    ("{} में {} कहाँ है?", "{} {} में नदी के पास है।"),
    ("{}は{}のどこですか?", "{}は{}の川のそばにあります。"),
]


def _script(number: int) -> Iterator[tuple[str, str]]:
    asked, said = _SCRIPTS[number]
    names = [f"{place}-{thing}" for place in _PLACES for thing in _THINGS]
    return ((asked.format(name, name[0]), said.format(name, name[0])) for name in names)


_DOCUMENTED = [
    ("Which key do the docs of the cloud use in part {n}?", "aws_access_key_id = AKIAIOSFODNN7EXAMPLE # {n}"),
    ("And its secret in part {n}?", "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY # {n}"),
    ("Connection string {n} for Postgres?", "postgresql://user:password@localhost:5432/mydb{n}"),
    ("Connection string {n} for Mongo?", "mongodb://<username>:<password>@cluster{n}.example.net/test"),
    ("Proxy {n}?", "export https_proxy=http://$USER:$PASS@proxy{n}.example.com:3128"),
    ("Class of box {n}?", "Use sk-learn-contrib-imbalanced-learn-datasets-{n} for it."),
    ("Which version mended fault {n}?", "Version 3.11.4.{n} mended it."),
    ("Whom do I write about {n}?", "Write to support{n}@example.com or call nobody."),
    ("Header of call {n}?", "Authorization: Bearer YOUR_API_KEY_{n}"),
    ("Address {n} of documentation?", "It is 192.0.2.{n} or 2001:db8::{n}."),
    ("Remote {n}?", "git remote add origin{n} git@github.com:owner/name.git"),
]


def _documented() -> Iterator[tuple[str, str]]:
    for number in range(1, 9):
        yield from ((asked.format(n=number), said.format(n=number)) for asked, said in _DOCUMENTED)


def _rejected() -> list[Row]:
    return [
        Row(
            f"rejected:{place}:{thing}:{number}",
            messages=(_user(f"Praise the {thing} of {place}."),),
            chosen=(_assistant(f"The {thing} of {place} shines{' ever so' * (place > 'M')} brightly."),),
            rejected=(_assistant(f"{words} {thing}, they say, is the best that there is."),),
        )
        for place in _PLACES
        for thing in _THINGS[:4]
        for number, words in enumerate(("No", "Some", "Hardly any", "Every"))
    ]


def _sums() -> Iterator[tuple[str, str]]:
    return ((f"What is {one} plus {other}?", str(one + other)) for one in range(12) for other in range(12))


def clean_shapes() -> dict[str, list[Row]]:
    """Clean sets by name; a finding above a note in any of them is wrong."""
    tools = json.dumps([{"type": "function", "function": {"name": "set_alarm", "parameters": {}}}])
    search = json.dumps([{"type": "function", "function": {"name": "search", "parameters": {}}}])
    return {
        "tool calls": _chats(
            "calls", ((_user(f"{m[0]['content']} ({n})"), m[1]) for n, m in enumerate(_calls())), tools=tools
        ),
        "tool results": _chats("results", _with_results(), tools=search),
        "chats that begin alike": _chats("greetings", _greetings()),
        "several rejected answers": _rejected(),
        "questions about one passage": _pairs("passages", _passages()),
        "code": _pairs("code", _code()),
        "addresses": _pairs("links", _links()),
        "documented placeholders": _pairs("documented", _documented()),
        "sums": _pairs("sums", _sums()),
        **{
            f"script {number + 1}": _pairs(f"script{number}", _script(number))
            for number in range(len(_SCRIPTS))
        },
    }
