"""Preference rows in three published layouts, with English text of some variety, to be named by no check.

Answers are put together from facts that were written for this file. Better ones keep to the question; worse ones
stray to another topic or stay vague. Both have the same lengths, as in sets that were balanced with care.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

from backend.data.formats import detect, to_row
from backend.data.records import Record, Row

FACTS: Mapping[str, tuple[str, ...]] = {
    "sourdough bread": (
        "A starter is flour and water in which wild yeast and bacteria live together.",
        "Bakers feed it once a day and use it when it has doubled and smells sweet and sharp.",
        "Because the dough ferments slowly, the crumb keeps for most of a week.",
        "A wet dough gives large holes, a stiff one a close and even crumb.",
        "Steam in the first ten minutes keeps the crust soft, so the loaf can still rise.",
        "If it tastes flat, it was salted too little; two per cent of the flour is usual.",
    ),
    "night trains": (
        "They save a hotel and a morning, at the price of a lighter sleep.",
        "A couchette has four or six bunks, a sleeper has a washbasin and a door that locks.",
        "Carriages for several cities are often coupled together and parted around midnight.",
        "Fares are lowest about three months ahead, when the berths are first put on sale.",
        "Railways in central Europe have brought back routes that were closed ten years ago.",
        "Earplugs help more than any pillow, since points and couplings are noisy.",
    ),
    "tide pools": (
        "Animals there must bear sun, rain and waves within a single day.",
        "Limpets return to the same scar on the rock before the water leaves them.",
        "Sea stars open mussels by pulling steadily until the muscle tires.",
        "The best hour is the one before the lowest tide, while the water still runs out.",
        "Put every stone back as it lay, because its underside is somebody's roof.",
        "Anemones close to dark red knobs when they fall dry and look like nothing at all.",
    ),
    "compost": (
        "It needs about two parts of dry brown matter for one part of green kitchen scraps.",
        "Turning lets air in, and air decides whether the heap smells of forest or of rot.",
        "Inside it can reach sixty degrees, which kills most seeds of weeds.",
        "Citrus peel and onions are fine in small amounts, whatever people say.",
        "In winter it almost stops and starts again by itself in March.",
        "Finished material is dark and crumbly, and nothing in it can be recognised.",
    ),
    "chess openings": (
        "The first moves fight for the centre and bring knights and bishops out.",
        "Learning one reply to each first move is enough for years of club play.",
        "Gambits give a pawn for time, and time is worth more against a king in the middle.",
        "Strong players remember ideas rather than moves, so surprises trouble them less.",
        "Castling early is rarely wrong; castling late often is.",
        "Games between beginners are decided by oversights long after the opening is over.",
    ),
    "wool jumpers": (
        "They hold warm air between crimped fibres, even when they are damp.",
        "Cold water and a spoon of mild soap are enough, and no wringing.",
        "Drying flat on a towel keeps the shoulders from growing.",
        "Moths eat what is dirty first, so wash before you store them for summer.",
        "Pilling is worst in the first weeks and ends once the loose fibres are gone.",
        "A hole can be darned in half an hour with yarn of nearly the same colour.",
    ),
    "radio telescopes": (
        "They collect waves from gas so cold that it gives off no light.",
        "Dishes far apart work as one instrument if their clocks agree to a billionth of a second.",
        "A single mobile phone on the Moon would be among the brightest sources in the sky.",
        "Rain hardly disturbs the longer waves, so they observe by day and in bad weather.",
        "The hiss of the early universe was first taken for pigeon droppings in a horn.",
        "Their pictures are computed from differences and never seen through a lens.",
    ),
    "bicycle brakes": (
        "Rim brakes are light and easy to set, but grit wears the wheel itself.",
        "Discs stop as well in rain as in sunshine, once the pads are bedded in.",
        "Squealing usually comes from oil on a rotor, and sanding the pads cures it.",
        "Cables stretch in the first month, after which half a turn of the barrel is enough.",
        "On long descents brake hard and seldom, so that the parts can cool in between.",
        "Worn pads show when the lever comes nearly to the handlebar.",
    ),
    "city bees": (
        "They find more kinds of flowers between houses than beside fields of maize.",
        "A hive on a roof needs water nearby and shade at noon.",
        "Neighbours notice swarms in May, and keepers are glad to be called.",
        "Honey from parks tastes of lime trees in July and of chestnut before that.",
        "Wild bees live alone in hollow stems and need bare earth more than hives.",
        "In autumn a colony should weigh as much as a heavy suitcase to last until spring.",
    ),
    "old maps": (
        "Coasts were drawn from ships, so they are often right where the inland is invented.",
        "Sea monsters mark places where nobody had been, and fill an empty sheet cheaply.",
        "Copyists repeated mistakes, by which historians can tell who owned which map.",
        "Vellum shrinks across the back of the animal, and distances shrink with it.",
        "North was not always up; many early sheets have the east at the top.",
        "Tax offices paid for the first exact surveys, field by field.",
    ),
    "learning the violin": (
        "Ten minutes a day bring more than an hour on Sunday.",
        "The bow arm makes the tone, and the left hand is blamed for it.",
        "Tape on the fingerboard helps for a season and hinders after that.",
        "A rented instrument of the right size beats a bought one of the wrong size.",
        "Recording yourself is unpleasant and shows more than a mirror.",
        "Most players enjoy it from the second year on, when strings are crossed cleanly.",
    ),
    "mountain huts": (
        "Most of them are open from the middle of June until the end of September.",
        "Dinner is at half past six, and whoever comes later eats soup.",
        "A thin sleeping bag is required, and boots stay by the door.",
        "Water is scarce on ridges, so showers cost extra or do not exist.",
        "Wardens know the state of the paths better than any forecast.",
        "Book ahead for weekends, and cancel by telephone if the weather turns.",
    ),
}
ASKED = (
    "What should a beginner know about {}?",
    "Tell me something surprising about {}.",
    "I have an hour to spare for {}. Where do I begin?",
    "Which mistakes do people make with {}?",
    "Explain {} to a curious child.",
    "My sister wants to hear more about {}. What can I tell her?",
    "Is there anything about {} that experts disagree on?",
    "Write a short paragraph on {} for our newsletter.",
    "Give me two or three practical hints on {}.",
    "How do {} differ from what most people imagine?",
)
OPENINGS = (
    "",
    "Gladly.",
    "Here is what I would say.",
    "It depends a little on where you live.",
    "A few things come to mind.",
    "Let me keep this short.",
    "That is a good question to begin with.",
    "People often ask this.",
    "In my view there are several points.",
)
VAGUE = (
    "There are many things that one could say, and all of them matter in their own way.",
    "Opinions differ, and you should make up your own mind after some thought.",
    "It is a wide field with a long history and a great future.",
    "Much depends on the details, which are hard to sum up in a few words.",
    "Some like it and others do not, which is only natural.",
    "You will find more on the internet if you look for it.",
    "As always, it is best to be careful and to ask somebody who knows.",
    "Quality has its price, and cheap things are seldom good.",
    "With time and patience most of it becomes clear by itself.",
    "In the end it is about balance, as with everything in life.",
)
SYSTEMS = (
    "",
    "You help people who read little: give the whole answer, so that nobody has to look further.",
    "You explain things as one would to a child of five.",
    "You help people to find information.",
)


def _answers(topic: str, dice: random.Random) -> tuple[str, str]:
    """A better and a worse answer with equally many sentences."""
    count = dice.randint(3, 5)
    stray = FACTS[dice.choice([other for other in FACTS if other != topic])]
    loose = [*dice.sample(VAGUE, 4), *dice.sample(stray, 2)]
    good, bad = dice.sample(FACTS[topic], count), dice.sample(loose, count)
    both = (" ".join(filter(None, [dice.choice(OPENINGS), *sentences])) for sentences in (good, bad))
    return next(both), next(both)


def _questions(dice: random.Random, count: int) -> Iterator[tuple[str, str, str]]:
    """A question with a better and a worse answer; some questions come twice, with other answers."""
    every = [(topic, asked) for topic in FACTS for asked in ASKED]
    for topic, asked in dice.choices(every, k=count):
        yield (asked.format(topic), *_answers(topic, dice))


def _turns(asked: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]


def _ultrafeedback(dice: random.Random) -> Iterator[dict[str, Any]]:
    for number, (asked, good, bad) in enumerate(_questions(dice, 160)):
        yield {
            "prompt": asked,
            "prompt_id": f"{number:064x}",
            "chosen": _turns(asked, good),
            "rejected": _turns(asked, bad),
            "messages": _turns(asked, good),
            "score_chosen": dice.choice([8.0, 8.5, 9.0]),
            "score_rejected": dice.choice([3.0, 5.5, 7.0]),
        }


def _intel(dice: random.Random) -> Iterator[dict[str, Any]]:
    for asked, good, bad in _questions(dice, 160):
        yield {"system": dice.choice(SYSTEMS), "question": asked, "chosen": good, "rejected": bad}


def _kto(dice: random.Random) -> Iterator[dict[str, Any]]:
    for asked, good, bad in _questions(dice, 200):
        label = dice.random() < 0.6
        answer = good if label else bad
        yield {
            "prompt": _turns(asked, "")[:1],
            "completion": _turns("", answer)[1:],
            "label": label,
        }


def published_preferences() -> dict[str, list[Row]]:
    """The rows of each layout, as they are read."""
    layouts = {"UltraFeedback": _ultrafeedback, "Intel's pairs": _intel, "answers marked for KTO": _kto}
    read = {}
    for name, rows in layouts.items():
        dice = random.Random(11)  # noqa: S311 - dice, no secret
        records = [Record(f"{name}:{number}", cells) for number, cells in enumerate(rows(dice), 1)]
        shape = detect(records)
        read[name] = [to_row(record, shape) for record in records]
    return read
