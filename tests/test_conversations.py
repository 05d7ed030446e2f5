"""Columns of conversations: which are read, which are named, and what is malformed in them."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftkit import Chat, Conversations
from peftkit.data.rows import Row, Table, folded_name, is_empty, is_empty_or_false, text_columns
from peftkit.data.splits import load_splits
from peftkit.errors import DataError
from peftkit.tasks.reading.conversations import SYSTEM
from peftkit.tasks.reading.messages import read_messages
from peftkit.tasks.reading.single_message import FLAGS, ROLES
from tests.conftest import write_csv, write_jsonl

ANSWER = {"role": "assistant", "content": "On the shelf."}
PIRATE = {"role": "system", "content": "Be a pirate."}


def asked(number=0):
    return {"role": "user", "content": f"Where is cup {number}?"}


def read(row, **columns) -> Any:
    """What the task makes of a row: its values, or what is malformed."""
    task = Chat(data=Conversations(path="rows.jsonl", **columns))
    return task.read_row(row, Table("rows.jsonl", tuple(row), ((1, row),)))


def notes(tmp_path, rows, **columns):
    """The notes on a file of rows."""
    path = write_jsonl(tmp_path / "r.jsonl", rows)
    return load_splits(Chat(data=Conversations(path=str(path), **columns)), 0)[1].notes


def deep(inner="x", levels=3000):
    """A value that is nested more deeply than Python calls functions."""
    value: Any = inner
    for _ in range(levels):
        value = [value]
    return value


# --- names of columns


@st.composite
def spellings(draw, names):
    """A name as someone else writes it: other case, and other signs between its words."""
    name = draw(st.sampled_from(names))
    sign = draw(st.sampled_from(["_", "-", " ", ""]))
    change = draw(st.sampled_from([str.lower, str.upper, str.title, str.capitalize]))
    return change(name.replace("_", " ")).replace(" ", sign)


@settings(max_examples=100, deadline=None)
@given(name=spellings(SYSTEM))
def test_a_system_column_is_read_whatever_its_spelling(name):
    row = {"messages": [asked(), ANSWER], name: "Be a pirate."}
    assert read(row)["messages"] == [PIRATE, asked(), ANSWER]


@settings(max_examples=100, deadline=None)
@given(kind=spellings(["messages", "conversations"]), tools=spellings(["tools", "functions"]))
def test_the_columns_of_a_conversation_are_found_whatever_their_spelling(kind, tools):
    row = {kind: [asked(), ANSWER]}
    assert read(row)["messages"] == [asked(), ANSWER]
    assert read({**row, tools: [{"name": "f"}]}) == f"the row has `{tools}`, which is not read"


def test_an_instruction_in_capitals_has_its_input():
    row = {"Instruction": "Say it.", "INPUT": "lamp", "Output": "A lamp."}
    assert read(row)["messages"][0]["content"] == "Say it.\n\nlamp"


def test_the_exact_name_goes_before_another_spelling():
    row = {"Messages": [asked(1), ANSWER], "messages": [asked(2), ANSWER]}
    assert read(row)["messages"][0] == asked(2)


@settings(max_examples=100, deadline=None)
@given(name=st.text(min_size=1, max_size=12))
def test_a_name_is_spelled_as_its_spelling_is(name):
    assert folded_name(folded_name(name)) == folded_name(name) == folded_name(f"_{name} -")


# --- columns that nothing reads


@pytest.mark.parametrize("name", ["persona", "preamble", "customInstructions", "context"])
@pytest.mark.parametrize("value", ["You are a sailor.", {"role": "You are a sailor."}])
def test_a_column_with_the_same_text_in_all_rows_is_named_once(tmp_path, name, value):
    told = notes(tmp_path, [{"messages": [asked(n), ANSWER], name: value} for n in range(6)])
    place = tmp_path / "r.jsonl"
    assert told == (f"nothing reads 1 text column of `{place}`: `{name}`",)


def test_a_text_that_only_late_rows_have_is_named(tmp_path):
    rows = [{"messages": [asked(n), ANSWER]} for n in range(400)]
    rows[390] = {**rows[390], "persona": "You are a sailor."}
    assert any("`persona`" in note for note in notes(tmp_path, rows))


def test_beside_plain_text_a_system_column_is_named(tmp_path):
    rows = [{"body": f"The cup is here. {n}", "system": "Be a pirate."} for n in range(6)]
    [note] = notes(tmp_path, rows, text="body")
    assert note.endswith("r.jsonl`: `system`")


PLAIN = [
    "row_17", "5f2b9c1e-77aa-4f0e-9c1e-0a1b2c3d4e5f", "chatcmpl-9xAbQ", "https://example.org/a",
    "2024-03-01", "2024-03-01T10:20:30Z", "2024-03-01 10:20:30 UTC", "1 March 2024",
    "Fri, 01 Mar 2024 10:20:30 GMT", "Mar 1st, 2024 10:20 PM", "0.25", "True", "nan", "None", "",
    7, 0.5, math.nan, True, None, [], {}, [0.1, 0.2], {"score": 3}, b"PNG\x00data",
]  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(values=st.lists(st.sampled_from(PLAIN), min_size=1, max_size=5))
def test_ids_dates_and_numbers_are_no_text(values):
    rows = tuple((n, {"c": value}) for n, value in enumerate(values, start=1))
    assert text_columns(Table("r", ("c",), rows)) == []


@pytest.mark.parametrize(
    "value",
    ["You are a pirate.", "海盗", "pirate", "May I have 2 cups", [{"a": ["two words"]}]],
)
def test_words_are_text_also_within_lists(value):
    table = Table("r", ("c",), ((1, {"c": value}), (2, {"c": None}), (3, {"c": value})))
    assert text_columns(table) == ["c"]


def test_an_input_beside_a_prompt_of_messages_is_named_or_refused(tmp_path):
    rows = [
        {"prompt": [asked(n)], "input": f"This is passage {n}.", "completion": [ANSWER]}
        for n in range(6)
    ]
    [note] = notes(tmp_path, rows)
    assert note.endswith("columns of conversations: `input` (6)")
    assert "`input` beside a prompt of messages" in read(rows[0], **PAIR, input="input")
    assert read({**rows[0], "input": math.nan}, **PAIR, input="input")["unread"] == ()


PAIR = {"prompt": "prompt", "completion": "completion"}


# --- system messages in columns


@pytest.mark.parametrize(
    "value",
    [
        PIRATE, [PIRATE], json.dumps(PIRATE), json.dumps([PIRATE]), " Be a pirate.\n",
        {"from": "Developer", "value": "Be a pirate."}, [{"type": "text", "text": "Be a pirate."}],
    ],
)  # fmt: skip
def test_a_system_message_in_a_column_may_be_an_object(value):
    assert read({"messages": [asked(), ANSWER], "system": value})["messages"][0] == PIRATE


@pytest.mark.parametrize("value", [None, "", " ", "None", "nan", math.nan, False, [], {}, "[]"])
def test_a_column_without_a_system_message_is_nothing(value):
    assert read({"messages": [asked(), ANSWER], "system": value})["messages"][0] == asked()


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (7, "system is int, not text"),
        ([asked()], "system is not one system message"),
        ([PIRATE, PIRATE], "system is not one system message"),
        ({"content": "Be a pirate."}, "a message without role"),
        (["Be a pirate."], "a message is str, not an object"),
        ("[{'role': 'system', 'content': 'x'}]", "looks like a list of messages, and is not JSON"),
        ('{"role": "system", "content": "a", "content": "b"}', "names `content` twice"),
    ],
)
def test_a_column_with_something_else_than_a_system_message_is_malformed(value, told):
    assert told in read({"messages": [asked(), ANSWER], "system": value})


def test_a_named_system_column_wins_and_the_other_is_named(tmp_path):
    rows = [
        {"messages": [asked(n), ANSWER], "s": "Be a pirate.", "system_prompt": "Be a cook."}
        for n in range(6)
    ]
    assert read(rows[0], system="s")["messages"][0] == PIRATE
    [note] = notes(tmp_path, rows, system="s")
    assert note.endswith("r.jsonl`: `system_prompt`")


def test_a_system_column_may_also_be_the_stratum():
    row = {"messages": [asked(), ANSWER], "system": "Be a pirate."}
    assert read(row, stratum="system")["messages"][0] == PIRATE


def test_the_system_message_of_a_conversation_goes_before_a_column(tmp_path):
    rows = [
        {"messages": [PIRATE, asked(n), ANSWER], "system": ["Be a cook.", " Be a pirate. "][n % 2]}
        for n in range(12)
    ]
    [note] = notes(tmp_path, rows)
    assert note == (
        "conversations begin with their own system message, which is used instead of the one "
        "in a column: `system` (6)"
    )


@settings(max_examples=50, deadline=None)
@given(before=st.text(" \t\n", max_size=3), after=st.text(" \t\n", max_size=3))
@pytest.mark.parametrize("place", ["message", "column", "recipe"])
def test_white_space_around_a_system_prompt_makes_no_difference(place, before, after):
    text = f"{before}Be a pirate.{after}"
    row = {"messages": [asked(), ANSWER]}
    if place == "message":
        row["messages"] = [{"role": "system", "content": text}, *row["messages"]]
    elif place == "column":
        row["system"] = text
    task = Chat(data=Conversations(path="r"), system=text if place == "recipe" else "")
    values = task.read_row(row, Table("r", tuple(row), ((1, row),)))
    [(_, messages)] = task._talks([Row(1, values)])
    assert messages[0] == PIRATE
    assert task._system_of(Row(1, values)) == "Be a pirate."


# --- cells of JSON


def test_messages_in_the_cells_of_a_csv_are_messages(tmp_path):
    cells = [
        (json.dumps([PIRATE, asked(n)]), json.dumps([ANSWER] if n % 2 else ANSWER))
        for n in range(6)
    ]
    path = write_csv(tmp_path / "r.csv", cells, ("prompt", "completion"))
    splits, _ = load_splits(Chat(data=Conversations(path=str(path))), 0)
    for row in splits.train:
        assert [m["role"] for m in row.values["messages"]] == ["system", "user", "assistant"]
        assert row.values["messages"][-1] == ANSWER


@pytest.mark.parametrize(
    "text",
    [
        "[1, 2]", "[]", "{}", '{"a": 1}', '[{"from": "Rome", "value": "7"}]', "[see above]",
        '[{"role": "manager", "name": "Ann"}]', '{"role": "user"}', "[" * 5000,
    ],
)  # fmt: skip
def test_other_json_is_text(text):
    values = read({"prompt": text, "completion": text})
    assert [m["content"] for m in values["messages"]] == [text, text]
    assert values["unread"] == ()


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ("[{'role': 'user', 'content': 'Why?'}]", "prompt looks like a list of messages"),
        ('[{"role": "user", "content": "Why', "prompt looks like a list of messages"),
        ('[{"role": "user", "content": "a", "content": "b"}]', "names `content` twice"),
        (
            '[{"role": "user", "content": "a"}, {"role": "robot", "content": "b"}]',
            "unknown role `robot`",
        ),
    ],
)
def test_a_cell_that_is_messages_in_part_is_malformed(cell, told):
    assert told in read({"prompt": cell, "completion": "So."})


# --- flags of rows


@settings(max_examples=100, deadline=None)
@given(
    name=spellings(FLAGS),
    value=st.sampled_from([False, 0, 0.0, "false", "No", True, 1, "yes", None, "", math.nan]),
    text=st.booleans(),
)
def test_a_flag_beside_the_messages_says_whether_the_row_is_learned(name, value, text):
    row = {"t": "The cup is here."} if text else {"messages": [asked(), ANSWER]}
    found = read({**row, name: value}, **({"text": "t"} if text else {}))
    if folded_name(name) == "loss" and isinstance(value, float):
        assert found["unread"] == (() if math.isnan(value) else (name,))
    elif str(value).casefold() in ("false", "0", "0.0", "no"):
        assert found == f"`{name}` is {str(value).lower() if value is False else value}"
    else:
        assert found["unread"] == ()


@settings(max_examples=50, deadline=None)
@given(
    name=spellings(FLAGS),
    value=st.one_of(st.floats(0.1, 0.9), st.integers(2, 9), st.sampled_from(["maybe", [0, 1]])),
)
def test_a_flag_of_a_row_that_is_neither_true_nor_false_is_named(name, value):
    assert read({"messages": [asked(), ANSWER], name: value})["unread"] == (name,)


def test_rows_that_are_not_to_be_learned_are_counted_and_can_be_skipped(tmp_path):
    rows = [{"messages": [asked(n), ANSWER], "train": n % 3 > 0} for n in range(12)]
    path = str(write_jsonl(tmp_path / "r.jsonl", rows))
    with pytest.raises(DataError, match=r"4 `train` is false \(lines 1, 4, 7, 10\)"):
        load_splits(Chat(data=Conversations(path=path)), 0)
    _, ledger = load_splits(Chat(data=Conversations(path=path, malformed="skip")), 0)
    assert ledger.read[0].kept == 8


def test_rows_that_are_not_to_be_learned_can_be_asked():
    row = {"messages": [asked()], "train": False}
    task = Chat(data=Conversations(path="r"))
    found = task.read_input(row, Table("r", tuple(row), ((1, row),)))
    assert found == {"messages": [asked()]}


# --- keys of a message


@settings(max_examples=100, deadline=None)
@given(name=spellings(sorted(ROLES)), key=st.sampled_from(["role", "from"]), other=st.booleans())
def test_roles_are_known_in_every_case(name, key, other):
    message = {key: name, "content": "Be a pirate."}
    if other:
        message["from" if key == "role" else "role"] = None
    role = ROLES[name.casefold()]
    messages = {
        "system": [message, asked(), ANSWER],
        "user": [message, ANSWER],
        "assistant": [asked(), message],
    }[role]
    assert {"role": role, "content": "Be a pirate."} in read_messages(messages)


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ({"role": "user", "content": "a", "value": "b"}, "different texts in `content` and `val"),
        ({"role": "user", "from": "gpt", "content": "a"}, "different roles in `role` and `from`"),
        ({"role": "robot", "from": "human", "content": "a"}, "unknown role `robot`"),
        ({"role": True, "content": "a"}, "unknown role `true`"),
        ({"role": "user", "content": math.nan}, "user turn without content"),
        ({"role": math.nan, "content": "a"}, "a message without role"),
        ({"role": "user", "content": [{"type": "text", "text": 7}]}, "content is not text"),
        ({"role": "user", "content": [{"type": "image", "text": "x"}]}, "content is not text"),
    ],
)
def test_a_message_that_says_two_things_is_malformed(message, told):
    assert told in read_messages([message, ANSWER])


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": "a", "value": " a "},
        {"role": "user", "content": None, "value": "a"},
        {"role": "user", "content": "", "value": "a"},
        {"role": None, "from": "human", "content": math.nan, "value": "a"},
        {"role": "user", "from": "human", "content": [{"type": "input_text", "text": "a"}]},
    ],
)
def test_a_message_that_says_one_thing_twice_is_read(message):
    assert read_messages([message, ANSWER])[0] == {"role": "user", "content": "a"}


def test_what_a_part_has_beside_its_text_is_named():
    part = {"type": "text", "text": "a", "image": "cup.png", "cache_control": None}
    row = {"messages": [{"role": "user", "content": [part]}, ANSWER]}
    assert read(row)["unread"] == ("image",)


@pytest.mark.parametrize("value", ["None", "nan", "NaN", [{}], {"a": None}, math.nan, "[{}]", [""]])
def test_values_that_say_nothing_are_nothing(value):
    assert is_empty(value)
    assert is_empty_or_false(value)
    row = {"messages": [asked(), {**ANSWER, "tool_calls": value}], "tools": value}
    assert read(row)["messages"] == [asked(), ANSWER]


@pytest.mark.parametrize("value", [False, "false", "False"])
def test_false_says_that_there_are_no_tools(value):
    assert is_empty_or_false(value)
    assert not is_empty(value)
    assert read({"messages": [asked(), ANSWER], "tools": value})["messages"] == [asked(), ANSWER]


# --- anything


ANYTHING = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
        st.just("DEEP"), st.sampled_from(["[" * 5000, "[{}]", '{"a": NaN}', b"x"]),
        st.sampled_from([asked(), ANSWER, PIRATE]).map(json.dumps),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["role", "from", "content", "value", "train", "text", "type"]), inner
        ),
    ),
    max_leaves=6,
)  # fmt: skip


def deepened(value):
    """The value with a deeply nested one where it has `DEEP`, which hypothesis cannot show."""
    if isinstance(value, list):
        return list(map(deepened, value))
    if isinstance(value, dict):
        return {key: deepened(inner) for key, inner in value.items()}
    return deep() if value == "DEEP" else value


NAMES = [
    "messages", "prompt", "completion", "input", "instruction", "output", "system", "developer",
    "tools", "weight", "of",
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(values=st.dictionaries(st.sampled_from(NAMES), ANYTHING), answered=st.booleans())
@pytest.mark.parametrize("kind", ["messages", "prompt"])
def test_whatever_a_row_holds_it_is_read_or_malformed(kind, values, answered):
    good = {"messages": {"messages": [asked(), ANSWER]}, "prompt": {"prompt": "a"}}[kind]
    row = {"completion": "b", "of": "x", **good, **deepened(values)}
    task = Chat(data=Conversations(path="r", stratum="of"))
    table = Table("r", tuple(row), ((1, row),))
    found = (task.read_row if answered else task.read_input)(row, table)
    assert isinstance(found, str | dict)
    assert isinstance(text_columns(table), list)


@pytest.mark.parametrize("key", ["role", "content", "weight", "reasoning", "tool_calls", "name"])
def test_a_message_that_is_nested_deeply_is_read_or_malformed(key):
    found = read({"messages": [asked(), {**ANSWER, key: deep()}]})
    assert isinstance(found, dict) == (key == "name")
    assert key != "name" or found["unread"] == ("name",)


def test_a_stratum_that_is_nested_deeply_is_malformed():
    row = {"messages": [asked(), ANSWER], "of": deep()}
    assert read(row, stratum="of") == "of is nested too deeply"


def test_words_are_found_however_deeply_they_are_nested():
    table = Table("r", ("c", "d"), ((1, {"c": deep("two words"), "d": deep("2")}),))
    assert text_columns(table) == ["c"]
