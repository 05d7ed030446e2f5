"""What of a conversation is learned: flags, thoughts, system prompts, keys that nothing reads."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from peftkit import Chat, Conversations
from peftkit.adapters.loading import load
from peftkit.cli.main import command_line
from peftkit.data.rows import is_empty
from peftkit.data.splits import load_splits
from peftkit.deploy.answering.chatting import converse, open_chat
from peftkit.errors import DataError
from peftkit.run import run
from peftkit.stages.preparing import prepare
from peftkit.tasks.encoding.chat_format import ChatFormat, NotRendered
from peftkit.tasks.reading.messages import read_messages
from peftkit.tasks.reading.single_message import FLAGS, THOUGHTS
from tests.chat_formats import BY_NAME
from tests.conftest import write_jsonl

USER = {"role": "user", "content": "Where is it?"}
ANSWER = {"role": "assistant", "content": "It is here."}
GOOD, BAD = {"role": "assistant", "content": "GOOD"}, {"role": "assistant", "content": "BAD"}


def asked(number):
    return {"role": "user", "content": f"Where is it? ({number})"}


def learned(prepared, split="train"):
    """The texts of all tokens that are learned, of each example."""
    examples = getattr(prepared.encoded, split)
    tokenizer = prepared.base.tokenizer
    return [
        tokenizer.decode(examples.targets[examples.outputs_of(example)].tolist())
        for example in range(len(examples))
    ]


def notes(task):
    return load_splits(task, 0)[1].notes


# --- flags


@settings(max_examples=100, deadline=None)
@given(
    key=st.sampled_from(FLAGS),
    value=st.sampled_from([False, 0, 0.0, "false", "No", "0", True, 1, 1.0, "true", None, ""]),
)
def test_a_flag_of_any_name_says_whether_a_turn_is_learned(key, value):
    [_, message] = read_messages([USER, {**ANSWER, key: value}])
    said = value not in (None, "")
    unlearned = said and str(value).casefold() in ("false", "0", "0.0", "no")
    assert message.get("learned", True) is not unlearned


@settings(max_examples=50, deadline=None)
@given(
    key=st.sampled_from(FLAGS),
    value=st.one_of(
        st.floats(0.1, 0.9), st.integers(2, 9), st.just("maybe"), st.just([0]), st.just({"a": 1})
    ),
)
def test_a_flag_that_is_neither_true_nor_false_is_malformed(key, value):
    assert f"a message has `{key}`" in read_messages([USER, {**ANSWER, key: value}])


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        ([{**USER, "train": True}, ANSWER], "a user turn has `train` true, and only answers"),
        ([USER, {**ANSWER, "train": True, "weight": 0}], "contradictory flags"),
        ([USER, {**ANSWER, "train_detail": [{"begin_offset": 0}]}], "`train_detail`, which is not"),
        ([USER, {**ANSWER, "reasoning": "a", "thinking": "b"}], "different texts in `reasoning`"),
    ],
)
def test_flags_that_make_no_sense_are_malformed(messages, told):
    assert told in read_messages(messages)
    assert not isinstance(read_messages([{**USER, "train": False}, ANSWER]), str)


def test_a_key_that_a_message_in_a_cell_names_twice_is_malformed():
    cell = '[{"role": "user", "content": "a", "content": "b"}, {"role": "gpt", "content": "c"}]'
    assert read_messages(cell) == "names `content` twice"
    assert read_messages("[" * 100_000) == "messages is text, not a list of messages"


@pytest.mark.parametrize("flag", [{"train": False}, {"loss": 0}, {"weight": 0}])
def test_a_turn_that_is_not_to_be_learned_is_read_and_not_learned(make_chat, tmp_path, flag):
    rows = [{"messages": [asked(n), {**BAD, **flag}, USER, GOOD]} for n in range(12)]
    prepared = prepare(make_chat(data=write_jsonl(tmp_path / "r.jsonl", rows)))
    assert set(learned(prepared)) == {"GOOD<|im_end|>"}
    ids = prepared.encoded.train.input_ids[0].tolist()
    assert "BAD" in prepared.base.tokenizer.decode(ids)
    assert prepared.encoded.prompts[0].expected == "GOOD"


def test_rows_in_which_nothing_is_learned_are_left_out_and_counted(make_chat, tmp_path):
    rows = [{"messages": [asked(n), {**BAD, "train": n % 2 == 0}]} for n in range(24)]
    prepared = prepare(make_chat(data=write_jsonl(tmp_path / "r.jsonl", rows)))
    counts = prepared.ledger.splits.values()
    assert sum(split.unsupervised for split in counts) == 12


# --- keys that nothing reads


def test_keys_that_nothing_reads_are_named_once_with_their_count(tmp_path):
    rows = [
        {"messages": [{**asked(n), "name": "Ann"}, {**ANSWER, "score": n, "meta": {}}]}
        for n in range(10)
    ]
    task = Chat(data=Conversations(path=str(write_jsonl(tmp_path / "r.jsonl", rows))))
    assert notes(task) == (
        "peftkit does not read these keys or columns of conversations: `name` (10), `score` (10)",
    )


@pytest.mark.parametrize("nothing", [None, "", " ", "[]", "{}", "null", "[ ]", [], {}, '""'])
def test_columns_that_hold_nothing_are_nothing(tmp_path, nothing):
    assert is_empty(nothing)
    rows = [{"messages": [asked(n), ANSWER], "tools": nothing} for n in range(5)]
    task = Chat(data=Conversations(path=str(write_jsonl(tmp_path / "r.jsonl", rows))))
    splits, _ = load_splits(task, 0)
    assert len(splits.train) == 3
    assert not any(is_empty(something) for something in ("[1]", "0", 0, False, "[", "no", [0]))


# --- thoughts

THINKING = (
    "{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
    "{%- if m.KEY %}{{ '<think>\\n' + m.KEY + '\\n</think>\\n\\n' }}{% endif %}"
    "{{- m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@pytest.mark.parametrize("written", THOUGHTS)
@pytest.mark.parametrize("key", ["reasoning_content", "thinking"])
def test_thoughts_are_learned_where_the_template_writes_them(key, written):
    tokenizer = BY_NAME["ChatML"].tokenizer()
    form = ChatFormat.of(tokenizer, THINKING.replace("KEY", key))
    messages = read_messages([USER, {**ANSWER, written: " It was\nthere. "}])
    tokens = form.encode(messages)
    shown = [i for i, on in zip(tokens.input_ids, tokens.supervised, strict=True) if on]
    text = tokenizer.decode(shown)
    assert text.strip() == "<think>\nIt was\nthere.\n</think>\n\nIt is here.<|im_end|>"


def test_thoughts_that_are_left_out_of_an_earlier_turn_are_told():
    template = THINKING.replace("m.KEY %}", "m.KEY and loop.last %}").replace("KEY", "thinking")
    form = ChatFormat.of(BY_NAME["ChatML"].tokenizer(), template)
    messages = read_messages([USER, {**ANSWER, "thinking": "Hm."}, USER, ANSWER])
    with pytest.raises(NotRendered, match="it rewrites earlier turns"):
        form.encode(messages)


def test_thoughts_that_no_template_writes_are_named(make_chat, tmp_path):
    rows = [{"messages": [asked(n), {**ANSWER, "reasoning": "Hm."}]} for n in range(12)]
    prepared = prepare(make_chat(data=write_jsonl(tmp_path / "r.jsonl", rows)))
    told = [note for note in prepared.ledger.notes if "thoughts" in note]
    assert told[0].startswith("train: 8 rows with thoughts, which the chat template omits")
    assert set(learned(prepared)) == {"It is here.<|im_end|>"}


# --- TRL's prompts and completions


def test_prompts_and_completions_may_be_messages(make_chat, tmp_path):
    rows = [
        {"prompt": [{"role": "system", "content": "Be brief."}, asked(n), BAD, USER],
         "completion": [GOOD]}
        for n in range(12)
    ]  # fmt: skip
    prepared = prepare(make_chat(data=write_jsonl(tmp_path / "r.jsonl", rows)))
    assert set(learned(prepared)) == {"GOOD<|im_end|>"}
    text = prepared.base.tokenizer.decode(prepared.encoded.train.input_ids[0].tolist())
    assert "Be brief." in text
    assert "BAD" in text


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"prompt": [USER], "completion": [USER]}, "1 usable row"),
        ({"prompt": [USER, ANSWER], "completion": [ANSWER]}, "two assistant turns in a row"),
        ({"prompt": [], "completion": [ANSWER]}, "begins with an assistant turn"),
        ({"prompt": [USER], "completion": 7}, "completion is int, not text"),
        ({"prompt": "Why?", "completion": ["So."]}, "a message is str, not an object"),
    ],
)
def test_malformed_prompts_and_completions_are_told(tmp_path, row, told):
    path = write_jsonl(tmp_path / "r.jsonl", [row] * 3)
    with pytest.raises(DataError, match=told):
        load_splits(Chat(data=Conversations(path=str(path))), 0)


# --- system prompts


@pytest.mark.parametrize("name", ["system", "system_prompt", "system_message"])
@pytest.mark.parametrize("kind", ["messages", "conversations", "prompt"])
def test_a_system_prompt_in_a_column_of_a_usual_name_is_read(tmp_path, name, kind):
    talk = {"prompt": "Why?", "completion": "So."} if kind == "prompt" else {kind: [USER, ANSWER]}
    rows = []
    for n in range(5):
        row = json.loads(json.dumps(talk).replace("Why?", f"Why {n}?").replace("it?", f"it {n}?"))
        rows.append({**row, name: "Be a pirate."})
    splits, ledger = load_splits(
        Chat(data=Conversations(path=str(write_jsonl(tmp_path / "r.jsonl", rows)))), 0
    )
    first = splits.train[0].values["messages"][0]
    assert first == {"role": "system", "content": "Be a pirate."}
    assert ledger.notes == ()


def test_system_prompts_that_contradict_each_other_are_told(tmp_path):
    rows = [
        {"messages": [asked(n), ANSWER], "system": "Be brief.", "system_prompt": "Be long."}
        for n in range(5)
    ]
    path = write_jsonl(tmp_path / "r.jsonl", rows)
    with pytest.raises(DataError, match="different system messages in `system`, `system_prompt`"):
        load_splits(Chat(data=Conversations(path=str(path))), 0)


def test_a_column_that_loses_against_a_system_message_is_named(tmp_path):
    own = {"role": "system", "content": "Be brief."}
    rows = [{"messages": [own, asked(n), ANSWER], "system_prompt": "Be long."} for n in range(5)]
    task = Chat(data=Conversations(path=str(write_jsonl(tmp_path / "r.jsonl", rows))))
    assert any("`system_prompt` (5)" in note for note in notes(task))


def test_an_instruction_beside_messages_is_refused_unless_it_is_named(tmp_path):
    rows = [{"messages": [asked(n), ANSWER], "instruction": "Be a pirate."} for n in range(5)]
    path = str(write_jsonl(tmp_path / "r.jsonl", rows))
    with pytest.raises(DataError, match=r"`instruction` beside its messages, which is not read"):
        load_splits(Chat(data=Conversations(path=path)), 0)
    splits, _ = load_splits(Chat(data=Conversations(path=path, system="instruction")), 0)
    assert splits.train[0].values["messages"][0]["content"] == "Be a pirate."


def test_several_system_prompts_are_noted(tmp_path):
    rows = [
        {"messages": [asked(n), ANSWER], "system": ["Be brief.", "Be kind.", ""][n % 3]}
        for n in range(30)
    ]
    task = Chat(data=Conversations(path=str(write_jsonl(tmp_path / "r.jsonl", rows))))
    [note] = notes(task)
    assert note.startswith("training has 2 different system prompts, and ")
    assert note.endswith(
        "conversations without one, so `peftkit chat` uses none; give one with `--system`"
    )


@pytest.fixture(scope="module")
def pirate(tmp_path_factory, chat_base):
    """A run of conversations that all have the same system prompt."""
    from peftkit import Base, LoRA, Recipe, Training

    folder = tmp_path_factory.mktemp("pirate")
    rows = [{"messages": [asked(n), ANSWER], "system": "Be a pirate."} for n in range(12)]
    path = write_jsonl(folder / "r.jsonl", rows)
    recipe = Recipe(
        base=Base(name_or_path=str(chat_base)),
        task=Chat(data=Conversations(path=str(path)), samples=0, generation={"max_new_tokens": 4}),
        method=LoRA(r=2),
        training=Training(max_steps=1),
    )
    return run(recipe, str(folder / "run")).folder


def test_the_system_prompt_that_all_rows_have_is_remembered(pirate):
    adapter = load(str(pirate))
    assert adapter.recipe.task.system == "Be a pirate."
    ids = adapter._encode(["Where is it?"]).input_ids[0].tolist()
    assert "Be a pirate." in adapter.tokenizer.decode(ids)
    assert "Be a pirate." in (pirate / "adapter" / "README.md").read_text()
    again = json.loads((pirate / "recipe.json").read_text())
    assert again["task"]["system"] == "Be a pirate."


@pytest.mark.parametrize(
    ("system", "found"), [(None, "Be a pirate."), ("Be a cook.", "Be a cook."), ("", "")]
)
def test_chat_asks_with_it_or_with_another(pirate, system, found):
    adapter = open_chat(str(pirate), "", system=system)
    text = adapter.tokenizer.decode(adapter._encode(["Where is it?"]).input_ids[0].tolist())
    assert [turn for turn in ("Be a pirate.", "Be a cook.") if turn in text] == [found][
        : len(found)
    ]


def test_the_option_of_chat_is_taken(pirate, capsys):
    command_line(["chat", str(pirate), "--once", "Where is it?", "--system", "Be a cook."])
    assert capsys.readouterr().out.strip()


def test_a_conversation_tells_its_system_prompt_when_it_changes(pirate, capsys, monkeypatch):
    lines = iter(["/system Be a cook.", "/system", "/quit"])
    monkeypatch.setattr("builtins.input", lambda *_: next(lines))
    converse(open_chat(str(pirate), ""), False, Console(quiet=False))
    out = capsys.readouterr().out
    places = [out.index(f"system prompt: {name}") for name in ("Be a pirate.", "Be a cook.")]
    assert places[0] < places[1] < out.index("no system prompt")
