"""Short ways to write rows in tests."""

from backend.data.records import Row


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def system(text):
    return {"role": "system", "content": text}


def chat(*messages, place="f:1", **more):
    return Row(place, messages=messages, **more)


def pair(prompt, answer, place="f:1"):
    return chat(user(prompt), assistant(answer), place=place)


def pairs(texts):
    return [pair(prompt, answer, f"f:{number}") for number, (prompt, answer) in enumerate(texts, 1)]
