"""The files that README and docs name, small enough to train on in seconds."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tests.conftest import conversations, sentences, write_csv, write_jsonl

TEAMS = {
    "billing": ("I was charged twice for {}", "the invoice for {} is wrong", "please refund {}"),
    "delivery": ("{} has not arrived", "where is {}", "the parcel with {} is late"),
    "repairs": ("{} does not switch on", "{} is broken", "{} flickers and then goes dark"),
}
THINGS = ("lamp", "lantern", "ceiling light", "night light", "desk lamp", "bulb", "shade", "torch")
COLOURS = ("red", "blue", "green", "white", "black", "brass")
PEOPLE = ("Ada Lovelace", "Grace Hopper", "Alan Turing", "Emmy Noether", "Katherine Johnson")
PLACES = ("London", "Paris", "Berlin", "Princeton", "Manchester")
TOLD = (
    "{} lives in {} .",
    "last year {} moved to {} .",
    "{} taught in {} .",
    "in {1} , {0} spoke .",
)


def write_files(folder: Path) -> None:
    """reviews.csv, tickets.csv, topics.csv, kunden.csv, stars.csv, names.jsonl, pairs.csv,
    talks.jsonl, candidates.csv, similar.csv, questions.json.
    """
    write_csv(folder / "reviews.csv", sentences(200))
    write_csv(folder / "tickets.csv", tickets(), ("message", "team"))
    write_csv(folder / "topics.csv", several_topics(), ("message", "topics"))
    write_csv(folder / "stars.csv", rated(), ("text", "stars"))
    lines = ("nachricht;gruppe", *(f"{text};{team}" for text, team in german_tickets()))
    (folder / "kunden.csv").write_bytes("\r\n".join(lines).encode("cp1252"))
    write_jsonl(folder / "names.jsonl", tagged_words())
    articles = json.dumps({"version": "2.0", "data": sales()})
    (folder / "questions.json").write_text(articles)
    pairs = [(text, text.upper()) for text, _ in sentences(60)]
    write_csv(folder / "pairs.csv", pairs, ("source", "target"))
    write_jsonl(folder / "talks.jsonl", conversations(60))
    write_csv(folder / "candidates.csv", answers(), ("id", "question", "answer", "score"))
    similar = [(question, answer, score) for _, question, answer, score in answers()]
    write_csv(folder / "similar.csv", similar, ("sentence1", "sentence2", "score"))


def tickets() -> list[tuple[str, str]]:
    """432 messages to a lamp shop and the team that answers each."""
    rows = [
        (told.format(f"my {colour} {thing}"), team)
        for team, sentences_of in TEAMS.items()
        for told in sentences_of
        for colour in COLOURS
        for thing in THINGS
    ]
    random.Random(0).shuffle(rows)
    return rows


def answers() -> list[tuple[str, str, str, str]]:
    """192 answers to 48 questions: 2 if thing and colour are right, 1 if the thing is, else 0."""
    rows = []
    for number, (thing, colour) in enumerate((t, c) for t in THINGS for c in COLOURS):
        others = COLOURS[number % 5], THINGS[(THINGS.index(thing) + 3) % 8]
        said = ((f"{colour} {thing}", "2"), (f"old {thing}", "1"), (f"{others[0]} wire", "0"),
                (f"old {others[1]}", "0"))  # fmt: skip
        question = f"do you have a {colour} {thing}"
        rows += [(f"q{number}", question, f"here is a {what}", score) for what, score in said]
    return rows


def several_topics() -> list[tuple[str, str]]:
    """300 messages of one to three sentences and their topics, separated by semicolons; thanks have
    no topic.
    """
    random_one, rows = random.Random(0), []
    for number in range(300):
        teams = random_one.sample(sorted(TEAMS), k=random_one.choice((0, 1, 1, 2, 2, 3)))
        thing = f"my {random_one.choice(COLOURS)} {random_one.choice(THINGS)}"
        said = [random_one.choice(TEAMS[team]).format(thing) for team in teams]
        text = ", and ".join(said) or f"many thanks for {thing}"
        rows.append((f"{text} (order {number})", "; ".join(teams)))
    return rows


RATED = (
    ("awful", "broken"),
    ("weak", "dull"),
    ("fine", "usual"),
    ("good", "solid"),
    ("superb", "lovely"),
)


def rated() -> list[tuple[str, str]]:
    """200 sentences on lamps and their stars, from 1 to 5."""
    draw = random.Random(0).choice
    rows = []
    for number in range(200):
        words = RATED[number % 5]
        text = f"lamp number {number} is {draw(words)} and {draw(words)}"
        rows.append((text, str(number % 5 + 1)))
    return rows


def german_tickets() -> list[tuple[str, str]]:
    """60 messages; two spellings of a label, and a row without a label."""
    rows = []
    for number, thing in enumerate(("Lampe", "Glühbirne", "Leuchte", "Stehlampe", "Kerze") * 6):
        rows.append(
            (f"Die {thing} Nr. {number} für die Küche lässt sich nicht öffnen", "Reparatur")
        )
        rows.append((f"Größe und Preis von {thing} {number} stimmen nicht", "Rechnung"))
    rows[6] = (rows[6][0], "reparatur")
    rows[8] = (rows[8][0], "")
    return rows


SALES = (
    ("who sold the {0}?", "{1}"),
    ("where was the {0} sold?", "{2}"),
    ("how much was the {0}?", "{3}"),
)


def sales() -> list[dict[str, object]]:
    """48 articles on two sales each, with three questions on either as in SQuAD; the answer to one
    of them is left out of every second.
    """
    articles: list[dict[str, object]] = []
    random_one = random.Random(0)
    for number, (thing, colour) in enumerate((t, c) for t in THINGS for c in COLOURS):
        facts = [
            (what, random_one.choice(PEOPLE), random_one.choice(PLACES),
             f"{random_one.randint(11, 99)} crowns")
            for what in (f"{colour} {thing}", f"old {THINGS[(THINGS.index(thing) + 3) % 8]}")
        ]  # fmt: skip
        told = ["{1} sold the {0} in {2} for {3}.".format(*fact) for fact in facts]
        if number % 2 == 0:
            told[0] = told[0].replace(f" for {facts[0][3]}", "")
        context, qas = " ".join(told), []
        for place, fact in enumerate(facts):
            start = context.index(told[place])
            for kind, (question, answer) in enumerate(SALES):
                text = answer.format(*fact)
                at = told[place].find(text)
                answers = [{"text": text, "answer_start": start + at}] if at >= 0 else []
                qas.append({
                    "id": f"{number}.{place}.{kind}", "question": question.format(*fact),
                    "answers": answers, "is_impossible": not answers,
                })  # fmt: skip
        articles.append({"title": f"{number}", "paragraphs": [{"context": context, "qas": qas}]})
    return articles


def tagged_words() -> list[dict[str, list[str]]]:
    """100 sentences with people and places."""
    rows = []
    for told in TOLD:
        for person in PEOPLE:
            for place in PLACES:
                tokens, labels = [], []
                for word in told.replace("{}", "{0}", 1).replace("{}", "{1}").split():
                    kind = {"{0}": ("PER", person), "{1}": ("LOC", place)}.get(word)
                    words = kind[1].split() if kind else [word]
                    tokens += words
                    labels += [
                        f"{'I' if n else 'B'}-{kind[0]}" if kind else "O" for n in range(len(words))
                    ]
                rows.append({"tokens": tokens, "labels": labels})
    return rows
