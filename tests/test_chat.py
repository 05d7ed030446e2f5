"""The chat task: reading conversations, what of them is learned, and how answers are judged."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest

from peftkit import Chat, Conversations
from peftkit.data.encoded import Prompt
from peftkit.data.splits import load_splits
from peftkit.errors import DataError, PeftkitError, RecipeError
from peftkit.evaluation.writing import with_text_scores
from peftkit.stages.preparing import prepare
from peftkit.tasks.answers import Decision
from peftkit.tasks.reading.messages import read_messages
from peftkit.tasks.score import Score
from tests.chat_formats import BY_NAME
from tests.conftest import conversations, write_csv, write_jsonl
from tests.examples import base_with

USER = {"role": "user", "content": "Where is it?"}
ANSWER = {"role": "assistant", "content": "It is here."}
SYSTEM = {"role": "system", "content": "Be brief."}
EXCHANGE = [USER, ANSWER]


def rows_read(path, **columns):
    """The messages or texts of a file, in the order of its rows."""
    task = Chat(data=Conversations(path=str(path), **columns))
    splits, _ = load_splits(task, 0)
    rows = [row for split in splits.named().values() for row in split]
    return [row.values.get("messages") or row.values["text"] for row in sorted(rows, key=_number)]


def _number(row):
    return row.number


def asked(number):
    return {"role": "user", "content": f"Where is it? ({number})"}


class TestReading:
    def test_openai_sharegpt_and_a_csv_of_json_say_the_same(self, tmp_path):
        expected = [[SYSTEM, asked(number), ANSWER] for number in range(4)]
        openai = [{"messages": messages} for messages in expected]
        names = {"system": "system", "user": "human", "assistant": "gpt"}
        sharegpt = [
            {"conversations": [{"from": names[m["role"]], "value": m["content"]} for m in messages]}
            for messages in expected
        ]
        cells = [(json.dumps(messages), "x") for messages in expected]
        assert rows_read(write_jsonl(tmp_path / "a.jsonl", openai)) == expected
        assert rows_read(write_jsonl(tmp_path / "b.jsonl", sharegpt)) == expected
        assert rows_read(write_csv(tmp_path / "c.csv", cells, ("messages", "y"))) == expected
        (tmp_path / "d.json").write_text(json.dumps(openai))
        assert rows_read(tmp_path / "d.json") == expected

    def test_instructions_with_input(self, tmp_path):
        rows = [
            {"instruction": f"Say it. ({n})", "input": "lamp" if n else "", "output": " A lamp. "}
            for n in range(3)
        ]
        read = rows_read(write_jsonl(tmp_path / "rows.jsonl", rows))
        assert [m["content"] for m in read[0]] == ["Say it. (0)", "A lamp."]
        assert [m["content"] for m in read[1]] == ["Say it. (1)\n\nlamp", "A lamp."]

    def test_named_columns(self, tmp_path):
        rows = [{"q": f"Why? {n}", "a": "So.", "who": "Be brief." if n else None} for n in range(3)]
        path = write_jsonl(tmp_path / "rows.jsonl", rows)
        read = rows_read(path, prompt="q", completion="a", system="who")
        assert [m["role"] for m in read[0]] == ["user", "assistant"]
        assert read[1][0] == SYSTEM
        cells = [("p0", "c"), ("p1", "c"), ("p2", "c")]
        plain = write_csv(tmp_path / "rows.csv", cells, ("prompt", "completion"))
        assert [m[0]["content"] for m in rows_read(plain)] == ["p0", "p1", "p2"]

    def test_a_system_column_goes_before_messages_without_a_system_turn(self, tmp_path):
        rows = [
            {"conversations": [asked(0), ANSWER], "system": "Be brief."},
            {"conversations": [{**SYSTEM, "content": "Be kind."}, asked(1), ANSWER], "system": "x"},
            {"conversations": [asked(2), ANSWER], "system": None},
        ]
        read = rows_read(write_jsonl(tmp_path / "rows.jsonl", rows))
        assert [messages[0]["content"] for messages in read] == [
            "Be brief.", "Be kind.", "Where is it? (2)",
        ]  # fmt: skip

    def test_columns_that_would_change_what_is_learned_are_told(self, tmp_path):
        rows = [{"messages": [asked(n), ANSWER], "tools": [{"name": "f"}]} for n in range(3)]
        path = write_jsonl(tmp_path / "rows.jsonl", rows)
        with pytest.raises(DataError, match="the row has `tools`, which is not read"):
            rows_read(path)
        empty = [{**row, "tools": []} for row in rows]
        assert len(rows_read(write_jsonl(tmp_path / "empty.jsonl", empty))) == 3

    def test_an_input_column_that_would_not_be_read_is_refused(self, tmp_path):
        path = write_jsonl(tmp_path / "r.jsonl", [{**r, "i": "x"} for r in conversations(4)])
        with pytest.raises(DataError, match="none of the usual columns"):
            rows_read(path, input="i")

    def test_parts_of_text_are_joined_and_white_space_around_answers_goes(self):
        parts = [{"type": "text", "text": "Where "}, {"type": "text", "text": "is it?"}]
        read = read_messages([{"role": "user", "content": parts}, {**ANSWER, "content": " Yes\n"}])
        assert read == [USER, {"role": "assistant", "content": "Yes"}]

    @pytest.mark.parametrize(
        ("value", "told"),
        [
            ([{"role": "robot", "content": "x"}], "unknown role `robot`"),
            ([USER, ANSWER, ANSWER], "two assistant turns in a row"),
            ([USER, {"role": "assistant"}], "assistant turn without content"),
            ([{"role": "user", "content": None}, ANSWER], "user turn without content"),
            (
                [USER, {"role": "assistant", "content": 7}],
                "assistant turn whose content is not text",
            ),
            ([{"role": "user", "content": [{"type": "image"}]}], "content is not text"),
            ([{"content": "x"}], "a message without role"),
            ([ANSWER, USER], "begins with an assistant turn"),
            ([USER, SYSTEM, ANSWER], "system message after the beginning"),
            ([SYSTEM], "only a system message"),
            ([USER, {**ANSWER, "weight": 0.5}], "`weight` 0.5, which is neither true nor false"),
            ([USER, {**ANSWER, "tool_calls": [{"id": 1}]}], "has `tool_calls`, which is not read"),
            (["hello"], "a message is str, not an object"),
            ("hello", "is text, not a list of messages"),
            (None, "is NoneType, not a list of messages"),
            ([], "no messages"),
        ],
    )
    def test_malformed_conversations_are_told(self, value, told):
        assert told in read_messages(value)

    def test_malformed_rows_are_named_by_line_and_skipped_on_request(self, tmp_path):
        rows = [*conversations(6), {"messages": [{"role": "robot", "content": "x"}]}]
        path = write_jsonl(tmp_path / "rows.jsonl", rows)
        with pytest.raises(DataError, match=r"1 unknown role `robot` \(line 7\)"):
            rows_read(path)
        assert len(rows_read(path, malformed="skip")) == 6

    @pytest.mark.parametrize(
        ("columns", "told"),
        [
            ({}, "none of the usual columns of conversations"),
            ({"messages": "chat"}, "has no column `chat`"),
            ({"prompt": "q", "completion": "answer"}, "has no column `answer`"),
        ],
    )
    def test_missing_columns_are_told(self, tmp_path, columns, told):
        path = write_jsonl(tmp_path / "rows.jsonl", [{"q": "x", "a": "y"}] * 4)
        with pytest.raises(DataError, match=told):
            rows_read(path, **columns)

    @pytest.mark.parametrize(
        "columns",
        [{"prompt": "q"}, {"messages": "m", "text": "t"}, {"messages": "m", "input": "i"}],
    )
    def test_columns_that_do_not_go_together_are_refused(self, columns):
        with pytest.raises(ValueError, match=r"`prompt`|different kinds"):
            Conversations(path="x", **columns)


class TestSplits:
    def test_the_same_question_is_in_one_split_whatever_the_answers(self, tmp_path):
        rows = [{"prompt": f"question {n // 3}", "completion": f"answer {n}"} for n in range(60)]
        task = Chat(data=Conversations(path=str(write_jsonl(tmp_path / "rows.jsonl", rows))))
        splits, ledger = load_splits(task, 0)
        asked = [
            {row.values["messages"][0]["content"] for row in split}
            for split in splits.named().values()
        ]
        assert sum(map(len, asked)) == len(set.union(*asked))
        assert ledger.read[0].duplicate == 0
        assert sum(len(split) for split in splits.named().values()) == 60

    def test_the_same_conversation_in_two_strata_is_kept_in_both_and_in_one_split(self, tmp_path):
        rows = [{**row, "of": of} for row in conversations(30) for of in "ab"]
        data = Conversations(path=str(write_jsonl(tmp_path / "r.jsonl", rows)), stratum="of")
        splits, ledger = load_splits(Chat(data=data), 0)
        assert ledger.read[0].conflicting == ledger.read[0].duplicate == 0
        for split in splits.named().values():
            groups = [row.group for row in split]
            assert all(groups.count(group) == 2 for group in groups)

    def test_equal_conversations_count_as_duplicates(self, tmp_path):
        rows = [*conversations(20), *conversations(5)]
        task = Chat(data=Conversations(path=str(write_jsonl(tmp_path / "rows.jsonl", rows))))
        _, ledger = load_splits(task, 0)
        assert ledger.read[0].duplicate == 5

    def test_every_split_has_its_share_of_a_stratum(self, tmp_path):
        rows = [{**row, "of": "ab"[n % 2]} for n, row in enumerate(conversations(60))]
        data = Conversations(path=str(write_jsonl(tmp_path / "r.jsonl", rows)), stratum="of")
        _, ledger = load_splits(Chat(data=data), 0)
        for split in ledger.splits.values():
            assert abs(split.strata["a"] - split.strata["b"]) <= 2


def encoded(tmp_path, rows, **options):
    """A file of rows as the ChatML tokenizer encodes it."""
    columns = options.pop("columns", {})
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    task = Chat(data=Conversations(path=str(path), **columns), **options)
    splits, _ = load_splits(task, 0)
    return task, task.encode(splits, base_with(BY_NAME["ChatML"].tokenizer()))


class TestEncoding:
    def test_targets_stand_one_before_their_tokens(self, tmp_path):
        _, found = encoded(tmp_path, conversations(10))
        tokenizer = BY_NAME["ChatML"].tokenizer()
        for example in range(len(found.train)):
            ids, places = found.train.input_ids[example], found.train.read_at[example][:, 0]
            targets = found.train.targets[found.train.outputs_of(example)]
            assert (targets == ids[places + 1]).all()
            said = [m["content"] for m in found.train.rows[example].values["messages"][1::2]]
            assert tokenizer.decode(targets) == "".join(f"{s}<|im_end|>" for s in said)

    def test_the_system_message_of_the_recipe_goes_first_where_there_is_none(self, tmp_path):
        rows = [{"messages": [SYSTEM, asked(0), ANSWER]}, *conversations(9)]
        task, found = encoded(tmp_path, rows, system="You sell lamps.")
        tokenizer = BY_NAME["ChatML"].tokenizer()
        for split in found.splits().values():
            for row, ids in zip(split.rows, split.input_ids, strict=True):
                expected = "Be brief." if row.number == 1 else "You sell lamps."
                assert tokenizer.decode(ids).startswith(f"<|im_start|>system\n{expected}")
        assert "You sell lamps." in task.prompt_code(found.head)

    def test_shown_pieces_are_the_example_and_its_answers(self, tmp_path):
        task, found = encoded(tmp_path, conversations(10))
        tokenizer = BY_NAME["ChatML"].tokenizer()
        pieces = task.show(0, found.train, found.head, tokenizer)
        assert "".join(piece.text for piece in pieces) == tokenizer.decode(found.train.input_ids[0])
        said = [m["content"] for m in found.train.rows[0].values["messages"][1::2]]
        assert [p.text for p in pieces if p.supervised] == [f"{s}<|im_end|>" for s in said]

    def test_generation_stops_at_the_end_of_a_turn_and_of_a_text(self, tmp_path):
        form = BY_NAME["Llama-3"]
        path = write_jsonl(tmp_path / "rows.jsonl", conversations(10))
        task = Chat(data=Conversations(path=str(path)))
        splits, _ = load_splits(task, 0)
        head = task.encode(splits, base_with(form.tokenizer())).head
        ids = form.tokenizer().convert_tokens_to_ids(["<|eot_id|>", "<|end_of_text|>"])
        assert head.generation["eos_token_id"] == sorted(ids)

    def test_samples_are_of_answered_conversations_that_fit(self, tmp_path):
        rows = [*conversations(20), *({"messages": [asked(f"no {n}")]} for n in range(20))]
        _, found = encoded(tmp_path, rows, samples=3)
        assert 1 <= len(found.prompts) <= 3
        assert all(prompt.expected for prompt in found.prompts)
        assert sum(part.unsupervised for part in found.splits().values()) == 20
        with pytest.raises(DataError, match="max_new_tokens"):
            encoded(tmp_path, rows, generation={"max_new_tokens": 10**40})

    def test_prompts_are_first_questions_of_the_test_split(self, tmp_path):
        _, found = encoded(tmp_path, conversations(40), samples=3)
        assert len(found.prompts) == 3
        numbers = {row.number: row for row in found.test.rows}
        for prompt in found.prompts:
            messages = numbers[prompt.row].values["messages"]
            assert prompt.text == messages[0]["content"]
            assert prompt.expected == messages[1]["content"]


LONG = {"messages": [asked("long"), ANSWER, USER, {**ANSWER, "content": "lamp " * 70}, *EXCHANGE]}


class TestOverLong:
    def found(self, tmp_path, policy, max_length=80, long=LONG):
        rows = [long, *conversations(20)]
        _, found = encoded(tmp_path, rows, over_long=policy, max_length=max_length)
        parts = found.splits().values()
        tokenizer = BY_NAME["ChatML"].tokenizer()
        texts = {
            row.number: tokenizer.decode(ids)
            for part in parts
            for row, ids in zip(part.rows, part.input_ids, strict=True)
        }
        counted = ("truncated", "too_long", "unsupervised")
        counts = [sum(getattr(part, name) for part in parts) for name in counted]
        return texts.get(1), counts, found.notes

    def test_cut_at_the_end(self, tmp_path):
        text, counts, _ = self.found(tmp_path, "cut_end")
        assert text.startswith("<|im_start|>user\nWhere is it? (long)")
        assert text.endswith("lamp")
        assert counts == [1, 0, 0]

    def test_oldest_turns_dropped(self, tmp_path):
        text, counts, _ = self.found(tmp_path, "drop_turns")
        assert text == "".join(
            f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in EXCHANGE
        )
        assert counts == [1, 0, 0]

    @pytest.mark.parametrize("policy", ["drop", "drop_turns"])
    def test_left_out(self, tmp_path, policy):
        long = {"messages": [{**USER, "content": "x" * 200}, ANSWER]}
        text, counts, notes = self.found(tmp_path, policy, long=long)
        assert text is None
        assert counts == [0, 1, 0]
        assert any("1 row with more than 80 tokens, left out (row 1)" in note for note in notes)

    def test_nothing_left_to_learn_is_counted(self, tmp_path):
        long = {"messages": [{**USER, "content": "x" * 200}, ANSWER]}
        text, counts, notes = self.found(tmp_path, "cut_end", long=long)
        assert text is None
        assert counts == [0, 0, 1]
        assert any("1 row with nothing to learn within 80 tokens" in note for note in notes)

    def test_all_of_them_is_an_error(self, tmp_path):
        rows = [{"messages": [{**USER, "content": f"{n} " + "x" * 200}, ANSWER]} for n in range(9)]
        for policy in ("cut_end", "drop_turns", "drop"):
            with pytest.raises(DataError, match="has anything to learn"):
                encoded(tmp_path, rows, over_long=policy, max_length=80)

    def test_a_turn_of_a_megabyte_is_one_note(self, tmp_path):
        rows = [{"messages": [{**USER, "content": "lamp " * 200_000}, ANSWER]}, *conversations(20)]
        _, found = encoded(tmp_path, rows)
        assert len(found.notes) == 1
        assert "row 1)" in found.notes[0]

    def test_special_tokens_in_a_text_are_noted(self, tmp_path):
        rows = [{"messages": [{**USER, "content": "<|im_end|>"}, ANSWER]}, *conversations(20)]
        _, found = encoded(tmp_path, rows)
        assert any("text of a special token" in note and "row 1)" in note for note in found.notes)


class TestPlainText:
    def test_all_is_learned_ends_are_marked_and_long_texts_divided(self, tmp_path):
        rows = [{"text": f"lamp {n} " * (40 if n == 3 else 1)} for n in range(10)]
        task, found = encoded(tmp_path, rows, columns={"text": "text"}, max_length=32)
        tokenizer = BY_NAME["ChatML"].tokenizer()
        texts: dict[int, list[int]] = {}
        for part in found.splits().values():
            for example, ids in enumerate(part.input_ids):
                assert len(ids) <= 32
                assert (part.targets[part.outputs_of(example)] == ids[1:]).all()
                before = texts.setdefault(part.row(example).number, [])
                if before:  # a piece begins with the last token of the one before
                    assert before.pop() == ids[0]
                before.extend(ids.tolist())
        for number, ids in texts.items():
            assert tokenizer.decode(ids) == rows[number - 1]["text"] + "<|im_end|>"
        assert any("pieces of at most 32 tokens" in note for note in found.notes)
        assert task.command == "predict"
        assert not found.prompts
        assert task.as_input("lamp") == {"text": "lamp"}
        with pytest.raises(RecipeError, match="learned plain text"):
            task.as_input([USER])

    def test_a_text_of_one_token_is_counted_and_all_of_them_are_an_error(self, tmp_path):
        import copy

        tokenizer = copy.deepcopy(BY_NAME["ChatML"].tokenizer())
        tokenizer.eos_token = None
        rows = [{"text": "a"}, *({"text": f"lamp {n}"} for n in range(20))]
        path = write_jsonl(tmp_path / "a.jsonl", rows)
        task = Chat(data=Conversations(path=str(path), text="text"))
        found = task.encode(load_splits(task, 0)[0], base_with(tokenizer))
        assert sum(part.unsupervised for part in found.splits().values()) == 1
        rows = [{"text": letter} for letter in "abcdefghi"]
        path = write_jsonl(tmp_path / "b.jsonl", rows)
        task = Chat(data=Conversations(path=str(path), text="text"))
        with pytest.raises(DataError, match="more than one token"):
            task.encode(load_splits(task, 0)[0], base_with(tokenizer))


class TestScores:
    def test_perplexity_and_accuracy_against_their_definitions(self, tmp_path):
        task, found = encoded(tmp_path, conversations(30))
        sizes = found.test.outputs_per_row().tolist()
        random = np.random.default_rng(0)
        losses = random.uniform(0, 3, sum(sizes)).astype(np.float32)
        right = (random.uniform(size=sum(sizes)) < 0.3).astype(np.float32)
        score = task.metrics(np.stack([losses, right], axis=1), found.test, found.head, Decision())
        assert score.metrics["perplexity"] == pytest.approx(math.exp(losses.mean()), rel=1e-6)
        assert score.metrics["token_accuracy"] == pytest.approx(right.mean(), rel=1e-6)
        low, high = score.intervals["perplexity"]
        assert low < score.metrics["perplexity"] < high

    def test_a_diverged_model_has_a_finite_perplexity(self, tmp_path):
        task, found = encoded(tmp_path, conversations(30))
        size = len(found.test.targets)
        score = task.metrics(
            np.full((size, 2), 1000, np.float32), found.test, found.head, Decision()
        )
        assert math.isfinite(score.metrics["perplexity"])


BAD = {
    "unknown role": ({"messages": [{"role": "tool", "content": "x"}]}, "unknown role `tool`"),
    "two answers": ({"messages": [USER, ANSWER, ANSWER]}, "two assistant turns in a row"),
    "no content": ({"messages": [USER, {"role": "assistant"}]}, "assistant turn without content"),
}


class TestBadInputThroughPrepare:
    """What `peftkit check` says: one line, before weights."""

    def told(self, recipe) -> PeftkitError:
        with pytest.raises(PeftkitError) as raised:
            prepare(recipe)
        assert "\n" not in raised.value.message
        return raised.value

    @pytest.mark.parametrize("name", BAD)
    def test_a_malformed_row(self, name, make_chat, tmp_path):
        row, expected = BAD[name]
        path = write_jsonl(tmp_path / "rows.jsonl", [*conversations(9), row])
        told = self.told(make_chat(data=path))
        assert expected in told.message
        assert "line 10" in told.message

    def test_an_encoder(self, make_chat, bases):
        told = self.told(make_chat(base={"name_or_path": str(bases["bert"])}))
        assert (
            "is a bert model, an encoder, which reads texts but does not continue" in told.message
        )

    def test_a_rate_for_a_head_that_is_not_trained(self, make_chat):
        told = self.told(make_chat(head_learning_rate=0.1))
        assert "`training.head_learning_rate` is 0.1, but Chat trains no head" in told.message

    def test_all_rows_too_long(self, make_chat):
        assert "has anything to learn" in self.told(make_chat(task={"max_length": 8})).message

    @pytest.mark.parametrize(
        ("template", "expected"),
        [
            (None, "has no chat template"),
            (
                "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
                "{% endfor %}",
                "writes `<|im_start|>assistant` before an answer",
            ),
            ("{{ raise_exception('System role not supported') }}", "System role not supported"),
        ],
    )
    def test_a_base_whose_template_does_not_do(
        self, template, expected, make_chat, chat_base, tmp_path
    ):
        base = shutil.copytree(chat_base, tmp_path / "base")
        (base / "chat_template.jinja").unlink()
        if template:
            (base / "chat_template.jinja").write_text(template)
        recipe = make_chat(base={"name_or_path": str(base)})
        told = self.told(recipe)
        assert expected in told.message
        assert str(base) in told.message
        assert "--base.chat-template chatml" in told.hint
        prepare(recipe.with_(base=recipe.base.with_(chat_template="chatml")))

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("chatlm", "neither one of `chatml`, `plain` nor"),
            ("./no.jinja", "no file `./no.jinja`"),
        ],
    )
    def test_an_unknown_template(self, name, expected, make_chat):
        assert expected in self.told(make_chat(base={"chat_template": name})).message


class TestRougeL:
    def of(self, expected: list[str], written: list[str]) -> float:
        from peftkit.metrics.metric import Written
        from peftkit.metrics.rouge import ROUGE

        pairs = zip(written, expected, strict=True)
        texts = [Written(text, (right,)) for text, right in pairs]
        metric = ROUGE["rouge_l"]
        return float(metric.statistic(metric.parts(texts).sum(axis=0)))

    def test_by_hand(self):
        """the cat sat / the cat ran: 2 of 3 words in order, both ways."""
        expected = ["the cat ran", "same same", "words"]
        found = self.of(expected, ["The cat sat.", "Same, same!", "other"])
        assert found == pytest.approx((2 / 3 + 1 + 0) / 3)

    def test_chinese_is_read_by_characters(self):
        assert self.of(["订单明天到"], ["订单今天到"]) == pytest.approx(4 / 5)
        # 2024 年 3 月 発 売 / 2024 年 4 月: three of six, three of four
        assert self.of(["2024年4月"], ["2024年3月発売"]) == pytest.approx(2 * 3 / (6 + 4))

    def test_vowel_signs_do_not_end_a_word(self):
        assert self.of(["हिन्दी भाषा"], ["हिन्दी में"]) == pytest.approx(1 / 2)

    def test_a_few_answers_have_no_score(self):
        task = Chat(data=Conversations(path="rows.jsonl"))
        prompts = [Prompt(row, "", "a", np.zeros(1, np.int64)) for row in range(20)]
        few = with_text_scores(Score({}, {}), task, prompts[:19], ["a"] * 19)
        assert few.metrics == {}
        many = with_text_scores(Score({}, {}), task, prompts, ["a"] * 20)
        assert many.metrics == {"rouge_l": 1.0}
        assert many.intervals["rouge_l"] == pytest.approx((0.025 ** (1 / 20), 1.0))
        assert many.parts["rouge_l"].table.sum(axis=0).tolist() == [20.0, 20.0]
