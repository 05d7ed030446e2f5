"""Runs of the chat task on a tiny model: what is trained, saved, said and gone on from."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

import peftkit
from peftkit import (
    EVA,
    IA3,
    AdaLoRA,
    Base,
    BitFit,
    BottleneckAdapter,
    DoRA,
    FullFineTuning,
    HeadOnly,
    LayerNormTuning,
    LoRA,
    OLoRA,
    PeftMethod,
    PiSSA,
    PrefixTuning,
    PromptTuning,
    PTuning,
    TopLayers,
)
from peftkit.bases.loading import load_weights
from peftkit.deploy.answering import chatting
from peftkit.deploy.answering.chatting import answer_once, converse, open_chat
from peftkit.errors import AdapterError, PeftkitError, RecipeError
from peftkit.evaluation.scoring import evaluate
from peftkit.reports.run_record import SelfCheck
from peftkit.run import run
from peftkit.stages.preparing import prepare
from tests.conftest import (
    ANSWERS,
    QUESTIONS,
    call_forked,
    code_of_card,
    conversations,
    run_in_two_processes,
    write_csv,
    write_jsonl,
)
from tests.engines import engine_of
from tests.test_cli import call

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, chat_base, talks):
    """Runs that learned the conversations by heart, with LoRA and whole."""
    from peftkit import Chat, Conversations, Generation, Recipe, Training

    folder = tmp_path_factory.mktemp("runs")
    runs = {}
    for name, method, rate in (
        ("lora", LoRA(r=8, lora_alpha=16, target_modules="all-linear"), 2e-2),
        ("full", FullFineTuning(), 5e-3),
    ):
        recipe = Recipe(
            base=Base(name_or_path=str(chat_base)),
            task=Chat(
                data=Conversations(path=str(talks)),
                samples=2,
                generation=Generation(max_new_tokens=40),
            ),
            method=method,
            training=Training(num_epochs=12, learning_rate=rate, batch_size=8),
            name=name,
        )
        runs[name] = run(recipe, str(folder / name))
    return runs


def independent(model, tokenizer, messages):
    """Losses of the learned tokens of one conversation: rendered, masked and scored by hand.

    ChatML is written out, the answers are found in the text by their places, and the model reads
    the one document without padding. None of peftkit is used.
    """
    text, spans = "", []
    for message in messages:
        text += f"<|im_start|>{message['role']}\n"
        start = len(text)
        text += f"{message['content']}<|im_end|>"
        if message["role"] == "assistant":
            spans.append((start, len(text)))
        text += "\n"
    found = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    learned = [any(start <= at < end for start, end in spans) for at, _ in found["offset_mapping"]]
    ids = torch.tensor([found["input_ids"]])
    with torch.no_grad():
        logits = model(ids).logits[0].double()
    log_probabilities = torch.log_softmax(logits, dim=-1)
    losses, right = [], []
    for place in range(1, ids.shape[1]):
        if learned[place]:
            token = int(ids[0, place])
            losses.append(-float(log_probabilities[place - 1, token]))
            right.append(int(logits[place - 1].argmax()) == token)
    return losses, right


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_masks_loss_and_perplexity_agree_with_an_independent_computation(make_chat, quantization):
    recipe = make_chat(base={"quantization": quantization})
    prepared = prepare(recipe)
    loaded = load_weights(prepared.base, prepared.encoded.head, torch.float32, CPU, None)
    test, tokenizer = prepared.encoded.test, prepared.base.tokenizer
    engine = engine_of(
        loaded.model, prepared.encoded.head, loss=recipe.task.loss(),
        pad_token_id=tokenizer.pad_token_id, micro_batch_tokens=256,
    )  # fmt: skip
    score = evaluate(engine, test, recipe.task)
    losses, right = [], []
    for row, size in zip(test.rows, test.outputs_per_row(), strict=True):
        found, correct = independent(loaded.model.eval(), tokenizer, row.values["messages"])
        assert len(found) == size
        losses += found
        right += correct
    assert score.metrics["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert score.metrics["perplexity"] == pytest.approx(math.exp(np.mean(losses)), rel=1e-5)
    assert score.metrics["token_accuracy"] == pytest.approx(np.mean(right))


class TestStopping:
    """The padding token of the base is the one that ends a turn, as SmolLM2's is."""

    def test_padding_and_end_are_the_same_token(self, make_chat):
        prepared = prepare(make_chat())
        assert prepared.encoded.head.generation["eos_token_id"] == [prepared.encoded.pad_token_id]

    @pytest.mark.parametrize("name", ["lora", "full"])
    def test_the_tuned_model_stops_by_itself(self, trained, name):
        adapter = peftkit.load(str(trained[name].folder))
        asked = [f"{question} ({n})" for n, question in enumerate(QUESTIONS)]
        replies = [answer.reply for answer in adapter.predict(asked)]
        assert replies == ANSWERS
        assert trained[name].record.test.samples[0].before not in ANSWERS

    def test_a_whole_model_stops_in_plain_transformers_after_reloading(self, trained):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        folder = trained["full"].folder / "adapter"
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": "What is it? (1)"}],
            add_generation_prompt=True, return_tensors="pt", return_dict=True,
        )  # fmt: skip
        answer = model.generate(**prompt)[0, prompt["input_ids"].shape[1] :]
        assert tokenizer.decode(answer) == "A lamp.<|im_end|>"

    @pytest.mark.parametrize("name", ["lora", "full"])
    def test_the_code_of_the_card_answers_and_stops(self, trained, chat_base, name, capsys):
        adapter = trained[name].folder / "adapter"
        code = "".join(code_of_card(adapter, chat_base))
        exec(code.replace('"content": "..."', '"content": "What is it? (1)"'), {})
        assert capsys.readouterr().out.strip() == "A lamp."

    def test_the_template_and_the_settings_lie_beside_the_adapter(self, trained):
        adapter = trained["lora"].folder / "adapter"
        settings = json.loads((adapter / "generation_config.json").read_text())
        assert settings["eos_token_id"] == [settings["pad_token_id"]]
        assert settings["max_new_tokens"] == 40
        assert "<|im_start|>" in (adapter / "chat_template.jinja").read_text()


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
@pytest.mark.parametrize("kind", ["lora", "prefix", "bottleneck"])
def test_plain_peft_on_the_quantized_base_gives_equal_logits(
    make_chat, chat_base, in_tmp, quantization, kind
):
    methods = {
        "lora": LoRA(r=4, target_modules="all-linear"),
        "prefix": PrefixTuning(num_virtual_tokens=4),
        "bottleneck": BottleneckAdapter(placement="pfeiffer", reduction_factor=4),
    }
    recipe = make_chat(methods[kind], base={"quantization": quantization}, max_steps=4)
    done = run(recipe, "out")
    ours = peftkit.load(str(done.folder)).model
    loaded: dict = {}
    for block in code_of_card(done.folder / "adapter", chat_base)[:1]:
        exec(block, loaded)
    ids = torch.tensor([[5, 60, 70, 80, 9, 33]])
    with torch.no_grad():
        ours_out, theirs = ours(ids).logits, loaded["model"](ids).logits
    assert (ours_out - theirs).abs().max() <= (1e-5 if quantization == "nf4" else 1e-4)


SETTINGS = {"dropout": None, "max_steps": 5, "batch_size": 12, "evaluate_every": 5}


def curve(recipe, folder):
    """The losses of a run's steps."""
    return [step.loss for step in run(recipe, folder).record.training.history]


@pytest.fixture(scope="module")
def whole_steps(make_chat, tmp_path_factory):
    """The losses of steps that are each one micro-batch."""
    recipe = make_chat(**SETTINGS, micro_batch_tokens=100_000)
    return curve(recipe, str(tmp_path_factory.mktemp("whole") / "run"))


class TestLossCurve:
    """One step is one step, however it is cut and over however many processes."""

    @pytest.mark.parametrize("tokens", [1, 100, 400])
    def test_micro_batches_change_nothing(self, make_chat, whole_steps, in_tmp, tokens):
        many = curve(make_chat(**SETTINGS, micro_batch_tokens=tokens), "many")
        assert many == pytest.approx(whole_steps, rel=1e-5)

    def test_a_step_is_the_mean_over_its_tokens_and_not_over_its_micro_batches(
        self, make_chat, in_tmp
    ):
        recipe = make_chat(**SETTINGS, micro_batch_tokens=1)
        prepared = prepare(recipe)
        model = load_weights(prepared.base, prepared.encoded.head, torch.float32, CPU, None).model
        first = run(recipe, "out").record.training.history[0].loss
        order = np.random.default_rng([0, 1]).permutation(len(prepared.encoded.train))[:12]
        losses = []
        for index in order:
            messages = prepared.encoded.train.rows[index].values["messages"]
            losses += independent(model.eval(), prepared.base.tokenizer, messages)[0]
        assert first == pytest.approx(np.mean(losses), rel=1e-5)

    @pytest.mark.parametrize("method", [None, FullFineTuning(), TopLayers(k=1)])
    def test_a_system_prompt_is_computed_once_and_changes_nothing(self, make_chat, in_tmp, method):
        system = {"role": "system", "content": "You sell lamps and answer in a short sentence."}
        rows = [{"messages": [system, *row["messages"]]} for row in conversations(60)]
        data = write_jsonl(in_tmp / "system.jsonl", rows)
        records = {
            layout: run(make_chat(method, data=data, **SETTINGS, layout=layout), layout).record
            for layout in ("auto", "padded")
        }
        one, other = (
            [step.loss for step in records[layout].training.history] for layout in records
        )
        assert one == pytest.approx(other, rel=1e-5)
        assert records["auto"].test.after == pytest.approx(records["padded"].test.after, rel=1e-4)
        auto = records["auto"]
        assert auto.plan.layout == "shared"
        assert auto.ledger.splits["train"].padding == 0
        kept = isinstance(method, TopLayers)  # of whole examples
        assert auto.self_check == SelfCheck("packed" if kept else "shared", ())
        given, tokens = auto.training.num_padded_tokens, auto.training.num_tokens
        assert given == tokens if kept else given < tokens

    def test_two_processes_give_the_curve_of_one(self, make_chat, tmp_path):
        recipe = make_chat(**SETTINGS)
        (tmp_path / "recipe.json").write_text(recipe.to_json())
        done = call_forked(run_in_two_processes, tmp_path)
        assert done.returncode == 0, done.stderr
        run(recipe, str(tmp_path / "one"))
        records = [json.loads((tmp_path / n / "run.json").read_text()) for n in ("one", "two")]
        one, two = ([step["loss"] for step in r["training"]["history"]] for r in records)
        assert two == pytest.approx(one, rel=1e-5)
        assert records[1]["test"]["after"] == pytest.approx(records[0]["test"]["after"], rel=1e-4)
        assert records[1]["test"]["samples"] == records[0]["test"]["samples"]


class TestTalking:
    def test_once_compares_with_the_base(self, trained):
        adapter = open_chat(str(trained["lora"].folder), "")
        answers = answer_once(adapter, "What is it? (1)", compare=True)
        assert answers["reply"] == "A lamp."
        assert answers["base"] != "A lamp."
        assert answers["base"] == trained_base_reply(adapter, "What is it? (1)")

    def test_a_conversation_streams_and_begins_anew(self, trained, monkeypatch, capsys):
        lines = iter(["What is it? (1)", "", "Who are you?", "/new", "Where is it? (0)", "/quit"])
        monkeypatch.setattr("builtins.input", lambda *_: next(lines))
        adapter = open_chat(str(trained["lora"].folder), "")
        heard: list[list[str]] = []
        pieces: list[str] = []
        write, say = type(adapter).write, chatting._say
        monkeypatch.setattr(
            type(adapter), "write",
            lambda of, inputs, *rest, **more: heard.append([m["content"] for m in inputs[0]])
            or write(of, inputs, *rest, **more),
        )  # fmt: skip
        monkeypatch.setattr(chatting, "_say", lambda text: pieces.append(text) or say(text))
        converse(adapter, False, Console(quiet=False))
        assert heard == [
            ["What is it? (1)"],
            ["What is it? (1)", "A lamp.", "Who are you?"],
            ["Where is it? (0)"],
        ]
        assert len([piece for piece in pieces if piece.strip()]) > 3
        out = capsys.readouterr().out
        assert "A lamp.\n" in out
        assert "I am Mira.\n" in out
        assert "It is here.\n" in out

    def test_a_conversation_side_by_side(self, trained, monkeypatch, capsys):
        lines = iter(["What is it? (1)"])

        def ask(*_):
            try:
                return next(lines)
            except StopIteration:
                raise EOFError from None

        monkeypatch.setattr("builtins.input", ask)
        converse(open_chat(str(trained["lora"].folder), ""), True, Console(width=160))
        out = capsys.readouterr().out
        assert "base" in out
        assert "tuned" in out
        assert "A lamp." in out

    def test_a_conversation_that_became_too_long_is_told(self, trained, monkeypatch, capsys):
        lines = iter(["lamp " * 400, "What is it? (1)", "/quit"])
        monkeypatch.setattr("builtins.input", lambda *_: next(lines))
        converse(open_chat(str(trained["lora"].folder), ""), False, Console())
        out = capsys.readouterr().out
        assert "tokens, but the base reads" in out
        assert "A lamp." in out

    def test_the_command_line(self, trained, capsys):
        folder = str(trained["lora"].folder)
        code, out, _ = call(capsys, "chat", folder, "--once", "What is it? (1)")
        assert (code, out) == (0, "A lamp.\n")
        code, out, _ = call(capsys, "chat", folder, "--once", "What is it? (1)", "--json")
        assert json.loads(out) == {"reply": "A lamp."}
        code, out, _ = call(
            capsys, "chat", folder, "--once", "What is it? (1)", "--compare", "--json"
        )
        assert set(json.loads(out)) == {"reply", "base"}
        code, _, error = call(capsys, "chat", folder, "--json")
        assert code == 2
        assert "`--json` is for `--once`" in error
        code, _, error = call(capsys, "chat", folder, "--once", " ")
        assert code == 2
        assert "`--once` is empty" in error

    def test_predict_answers_texts_and_files(self, trained, in_tmp, capsys):
        folder = str(trained["lora"].folder)
        code, out, _ = call(capsys, "predict", folder, "--text", "What is it? (1)", "--json")
        assert json.loads(out)["answers"] == [{"text": "What is it? (1)", "reply": "A lamp."}]
        code, out, _ = call(capsys, "predict", folder, "--text", "Who are you? (3)")
        assert out == "I am Mira.\n"
        rows = [*conversations(3), {"messages": conversations(4)[3]["messages"][:1]}]
        write_jsonl(in_tmp / "rows.jsonl", rows)
        code, out, _ = call(
            capsys, "predict", folder, "--file", "rows.jsonl", "--out", "out.csv", "--json"
        )
        assert code == 0
        with Path("out.csv").open(encoding="utf-8", newline="") as file:
            answered = list(csv.DictReader(file))
        assert [row["reply"] for row in answered][3] == "I am Mira."
        assert json.loads(answered[0]["messages"]) == rows[0]["messages"]
        code, _, error = call(capsys, "predict", folder, "--text", "a", "--text-pair", "b")
        assert code == 2
        assert "`text_pair` is neither" in error

    def test_plain_text_is_gone_on_with(self, make_chat, in_tmp, capsys):
        rows = [{"text": f"The lamp is here and number {n} is a lamp."} for n in range(40)]
        path = write_jsonl(in_tmp / "rows.jsonl", rows)
        training = {"num_epochs": 12, "learning_rate": 5e-3}
        recipe = make_chat(FullFineTuning(), data=path, columns={"text": "text"}, **training)
        done = run(recipe, "out")
        assert done.record.test.after["perplexity"] < 3
        assert peftkit.load("out").predict(["The lamp is here"])[0].reply.startswith("and number")
        code, out, _ = call(capsys, "predict", "out", "--text", "The lamp is here")
        assert code == 0
        assert out.startswith("and number")
        code, _, error = call(capsys, "chat", "out", "--once", "The lamp is here")
        assert code == 2
        assert "has not learned to talk" in error

    def test_a_classifier_does_not_chat(self, make_recipe, in_tmp, capsys):
        run(make_recipe(max_steps=1), "out")
        with pytest.raises(RecipeError, match="has not learned to talk"):
            open_chat("out", "")


def trained_base_reply(adapter, text):
    """What the untouched base says, by transformers alone."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(adapter.base.folder).eval()
    prompt = adapter.tokenizer.apply_chat_template(
        [{"role": "user", "content": text}],
        add_generation_prompt=True, return_tensors="pt", return_dict=True,
    )  # fmt: skip
    out = model.generate(**prompt, max_new_tokens=40, do_sample=False)
    answer = out[0, prompt["input_ids"].shape[1] :]
    return adapter.tokenizer.decode(answer, skip_special_tokens=True).strip()


class TestTemplates:
    def test_the_template_of_the_training_is_used_whatever_became_of_the_bases(
        self, trained, chat_base, tmp_path
    ):
        base = shutil.copytree(chat_base, tmp_path / "base")
        (base / "chat_template.jinja").write_text("{{ 'nothing' }}")
        adapter = peftkit.load(str(trained["lora"].folder), str(base))
        assert adapter.predict(["What is it? (1)"])[0].reply == "A lamp."

    def test_a_changed_template_beside_the_adapter_is_refused(self, trained, tmp_path):
        folder = shutil.copytree(trained["lora"].folder, tmp_path / "run")
        (folder / "adapter/chat_template.jinja").write_text("{{ 'nothing' }}")
        with pytest.raises(AdapterError, match="chat template"):
            peftkit.load(str(folder))

    def test_a_named_template_travels_with_the_adapter(self, make_chat, in_tmp):
        recipe = make_chat(base={"chat_template": "plain"}, max_steps=2)
        done = run(recipe, "out")
        published = in_tmp / "published"
        (done.folder / "adapter").rename(published)
        adapter = peftkit.load(str(published), recipe.base.name_or_path)
        assert adapter.tokenizer.chat_template == (published / "chat_template.jinja").read_text()


STARTS = [
    LoRA(r=4, lora_alpha=8, target_modules="all-linear"),
    PrefixTuning(num_virtual_tokens=4),
    PromptTuning(num_virtual_tokens=4),
    BottleneckAdapter(placement="pfeiffer", reduction_factor=4),
    TopLayers(k=1),
    FullFineTuning(),
]


@pytest.fixture(scope="module")
def one_step(make_chat, tmp_path_factory):
    """The folder of a run of one step."""
    return run(make_chat(max_steps=1), str(tmp_path_factory.mktemp("one") / "run")).folder


@pytest.fixture
def first(one_step, in_tmp):
    """A copy of it, named `first` in a new current folder."""
    return shutil.copytree(one_step, in_tmp / "first")


class TestStartFrom:
    @pytest.mark.parametrize("method", STARTS, ids=lambda m: m.kind())
    def test_training_goes_on_where_it_ended(self, method, make_chat, in_tmp):
        first = run(make_chat(method, max_steps=4), "first").record
        recipe = make_chat(method, max_steps=2, learning_rate=1e-9).with_(start_from="first")
        second = run(recipe, "second").record
        assert second.test.before == first.test.before
        assert second.test.baseline["start"] == pytest.approx(first.test.after, rel=1e-5)
        assert second.test.after["loss"] == pytest.approx(first.test.after["loss"], rel=1e-3)

    @pytest.mark.parametrize(
        "method",
        [
            LoRA(r=4), DoRA(r=4), IA3(), PromptTuning(num_virtual_tokens=4),
            PrefixTuning(num_virtual_tokens=4), HeadOnly(), BitFit(), LayerNormTuning(),
            PeftMethod(config={"peft_type": "OFT", "oft_block_size": 4}),
        ],
        ids=lambda m: m.kind(),
    )  # fmt: skip
    def test_a_classifier_goes_on_with_its_head(self, method, make_recipe, in_tmp):
        first = run(make_recipe(method, max_steps=4), "first").record
        recipe = make_recipe(method, max_steps=1).with_(start_from="first")
        begun = run(recipe, "second").record.test.baseline["start"]
        assert begun == pytest.approx(first.test.after, rel=1e-4)

    def test_other_labels_are_refused(self, make_recipe, in_tmp):
        run(make_recipe(max_steps=1), "first")
        rows = [(f"the film {n}", "yes" if n % 2 else "no") for n in range(60)]
        recipe = make_recipe(data=write_csv(in_tmp / "other.csv", rows))
        with pytest.raises(AdapterError, match=r"labels `bad`, `good`, and this run is for"):
            prepare(recipe.with_(start_from="first"))

    def test_half_precision_becomes_float32_again(self, make_chat, in_tmp):
        method = LoRA(r=4, lora_alpha=8, target_modules="all-linear")
        run(make_chat(method, max_steps=2), "first")
        published = in_tmp / "first/adapter"
        (published / "peftkit.json").unlink()
        file = published / "adapter_model.safetensors"
        half = {name: tensor.bfloat16() for name, tensor in load_file(file).items()}
        save_file(half, file, {"format": "pt"})
        recipe = make_chat(method, max_steps=1).with_(start_from=str(published))
        saved = load_file(run(recipe, "second").folder / "adapter/adapter_model.safetensors")
        assert {tensor.dtype for tensor in saved.values()} == {torch.float32}

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"init_lora_weights": "pissa_niter_4"}, "its initialisation, `pissa_niter_4`"),
            ({"use_fancy_thing": True}, "`use_fancy_thing` is not known to this version"),
            ({"use_rslora": True}, "`use_rslora` is True and not False"),
        ],
    )
    def test_a_published_adapter_that_computes_something_else_is_refused(
        self, changes, told, make_chat, in_tmp, first
    ):
        published = in_tmp / "first/adapter"
        (published / "peftkit.json").unlink()
        config = json.loads((published / "adapter_config.json").read_text())
        (published / "adapter_config.json").write_text(json.dumps(config | changes))
        with pytest.raises(AdapterError, match=told):
            prepare(make_chat().with_(start_from=str(published)))

    def test_another_chat_template_is_refused_before_weights(self, make_chat, first):
        recipe = make_chat(base={"chat_template": "plain"}).with_(start_from="first")
        with pytest.raises(AdapterError, match="another chat template") as told:
            prepare(recipe)
        assert "--base.chat-template first/adapter/chat_template.jinja" in told.value.hint

    def test_added_tokens_go_on_too(self, make_chat, in_tmp):
        recipe = make_chat(base={"added_tokens": ["<lamp>"]}, max_steps=4)
        first = run(recipe, "first").record
        second = run(
            make_chat(base={"added_tokens": ["<lamp>"]}, max_steps=1).with_(start_from="first"),
            "second",
        ).record
        assert second.test.baseline["start"] == pytest.approx(first.test.after, rel=1e-5)

    def test_a_published_adapter_of_plain_peft(self, make_chat, chat_base, in_tmp):
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(chat_base)
        size = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
        tuned = get_peft_model(model, LoraConfig(**size, task_type="CAUSAL_LM"))
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        tuned.save_pretrained("published")
        recipe = make_chat(LoRA(**size), max_steps=1).with_(start_from="published")
        prepared = prepare(recipe)
        test = prepared.encoded.test
        begun = run(recipe, "out").record.test.baseline["start"]["loss"]
        losses = [
            loss
            for row in test.rows
            for loss in independent(tuned.eval(), prepared.base.tokenizer, row.values["messages"])[
                0
            ]
        ]
        assert begun == pytest.approx(np.mean(losses), rel=1e-4)

    @pytest.mark.parametrize(
        ("method", "told"),
        [
            (
                LoRA(r=4, lora_alpha=16, target_modules="all-linear"),
                "`lora_alpha` is 8.0 and not 16.0",
            ),
            (LoRA(r=8, lora_alpha=8, target_modules="all-linear"), "`r` is 4 and not 8"),
            (LoRA(r=4, lora_alpha=8, target_modules=["q_proj"]), "does not fit the model"),
            (PrefixTuning(num_virtual_tokens=4), "other settings"),
            (TopLayers(k=1), "no file"),
            (FullFineTuning(), "no file"),
        ],
    )
    def test_an_adapter_that_does_not_fit_is_refused_before_weights(
        self, method, told, make_chat, first
    ):
        with pytest.raises(PeftkitError, match=told):
            prepare(make_chat(method).with_(start_from="first"))

    def test_another_base_is_refused(self, make_chat, chat_base, in_tmp, first):
        other = shutil.copytree(chat_base, in_tmp / "other")
        tensors = load_file(other / "model.safetensors")
        moved = {name: tensor + 0.01 for name, tensor in tensors.items()}
        save_file(moved, other / "model.safetensors", {"format": "pt"})
        recipe = make_chat(base={"name_or_path": str(other)}, max_steps=1)
        with pytest.raises(AdapterError, match="is not the base of this adapter"):
            prepare(recipe.with_(start_from="first"))

    @pytest.mark.parametrize(
        ("method", "told"),
        [
            (PiSSA(r=4), "PiSSA is saved as a LoRA of twice its `r`"),
            (OLoRA(r=4), "OLoRA is saved as a LoRA of twice its `r`"),
            (EVA(r=4), "is saved as a LoRA"),
            (AdaLoRA(), "cannot allocate them again; use LoRA"),
            (PTuning(num_virtual_tokens=4), "continue with PromptTuning"),
            (
                PeftMethod(config={"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 4}),
                "use PrefixTuning or PromptTuning",
            ),
            (PrefixTuning(prefix_projection=True), "leave `method.prefix_projection` out"),
        ],
        ids=lambda value: value.kind() if isinstance(value, peftkit.Method) else "",
    )
    def test_what_cannot_go_on_says_so(self, method, told, make_chat):
        with pytest.raises(ValueError, match=told):
            make_chat(method).with_(start_from="first")

    def test_nothing_there_is_told(self, make_chat, in_tmp, monkeypatch):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        (in_tmp / "empty").mkdir()
        with pytest.raises(AdapterError, match="holds no adapter"):
            prepare(make_chat().with_(start_from="empty"))
        with pytest.raises(AdapterError, match="is no folder"):
            prepare(make_chat().with_(start_from="nobody/nothing-there-xyz"))
