"""A classifier on pooled hidden states computes what single documents give by hand, everywhere."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
import torch
import transformers
from accelerate import Accelerator
from rich.console import Console
from torch.nn import functional as F

import peftkit as pk
from peftkit.adapters.loading import load_trained_model
from peftkit.adapters.record import Record
from peftkit.adapters.verifying import verify
from peftkit.bases.base import Base
from peftkit.bases.loading import empty_model, load_weights
from peftkit.bases.opening import open_base
from peftkit.bases.pooled import FIELD, check_first_token, pooled_class
from peftkit.bases.pooled import PLACES as JOINED
from peftkit.cli.main import command_line
from peftkit.data.encoded import Encoded, Examples
from peftkit.data.head import Head
from peftkit.data.ragged import Ragged
from peftkit.deploy.exporting.export import export
from peftkit.deploy.merging.merge import merge_to
from peftkit.errors import AdapterError, BaseModelError
from peftkit.methods import virtual_tokens
from peftkit.methods.method import trainable_parameters
from peftkit.reports.plan_record import Plan
from peftkit.reports.run_record import SelfCheck
from peftkit.run import prepare, run, train_and_score
from peftkit.stages.outcome import Clock
from peftkit.training.forward import frozen_trunk
from peftkit.training.forward.batching import pack_step
from peftkit.training.forward.self_check import choose_engine
from tests.conftest import code_of_card, save_tokenizer
from tests.engines import engine_of
from tests.test_fast_paths import DECODERS, ENCODERS, LENGTHS, examples_of

CPU = Accelerator(cpu=True)
EXACT = 1e-5
LABELS = ("a", "b", "c")
WAYS = [("bert", "mean"), ("bert", "cls"), ("roberta", "mean"), ("roberta", "cls"),
        ("electra", "cls"), ("llama", "mean"), ("gemma2", "mean"), ("gpt2", "mean"),
        ("bert", "markers"), ("electra", "markers"), ("llama", "markers")]  # fmt: skip
THREE = [("bert", "mean"), ("bert", "cls"), ("llama", "mean")]
MARKERS = [("bert", "markers"), ("llama", "markers")]
PLACES = [[(n * 7) % (n - 1), n - 1] for n in LENGTHS]
"""The two places of each example that `markers` reads."""


def config_of(kind, pooling):
    name, size = {**DECODERS, **ENCODERS}[kind]
    config = getattr(transformers, name)(**size)
    config.num_labels = len(LABELS)
    setattr(config, FIELD, pooling)
    if pooling == "markers":
        setattr(config, JOINED, 2)
    return config


def setting(kind, pooling) -> tuple[torch.nn.Module, Encoded]:
    config = config_of(kind, pooling)
    torch.manual_seed(0)
    model = pooled_class(config, kind).from_config(config).eval()
    examples = examples_of(per_token=False, segments=kind == "bert")
    head = Head("AutoModel", "SEQ_CLS", LABELS, pooling=pooling)
    if pooling == "markers":
        head = dataclasses.replace(head, markers=("[E1]", "[E2]"))
        examples = dataclasses.replace(examples, read_at=Ragged.of(PLACES, width=2))
    return model, Encoded(examples, examples, examples, head, 1)


def trunk_of(model):
    """Another copy of the trunk, as transformers has it."""
    trunk = transformers.AutoModel.from_config(model.config).eval()
    inner = getattr(model, model.base_model_prefix)
    missing, unexpected = trunk.load_state_dict(inner.state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith("pooler.") for name in missing)
    return trunk


def pooled(hidden, pooling, index):
    """(1, tokens, d) -> (1, d), or (1, 2 d) for `markers`; of the example at `index`."""
    if pooling == "markers":
        return torch.cat([hidden[:, place] for place in PLACES[index]], dim=1)
    return hidden.mean(1) if pooling == "mean" else hidden[:, 0]


def by_hand(trunk, classifier, examples: Examples, pooling):
    """Logits (examples, classes), one unpadded document at a time."""
    logits = []
    for index, ids in enumerate(examples.input_ids):
        inputs = {"input_ids": torch.from_numpy(ids).long()[None]}
        if "token_type_ids" in examples.inputs:
            segments = examples.inputs["token_type_ids"][index]
            inputs["token_type_ids"] = torch.from_numpy(segments).long()[None]
        hidden = trunk(**inputs).last_hidden_state
        logits.append(pooled(hidden, pooling, index) @ classifier.weight.T + classifier.bias)
    return torch.cat(logits)


def close(found, expected, allowed=EXACT):
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= allowed * float(expected.abs().max())


# --- what it computes


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize(("kind", "pooling"), WAYS)
def test_loss_and_gradients_are_those_of_single_documents(kind, pooling, layout):
    model, encoded = setting(kind, pooling)
    examples = encoded.train
    trunk, classifier = trunk_of(model), torch.nn.Linear(*model.classifier.weight.shape[::-1])
    classifier.load_state_dict(model.classifier.state_dict())
    logits = by_hand(trunk, classifier, examples, pooling)
    targets = torch.from_numpy(examples.targets)
    weights = torch.from_numpy(examples.weights)
    right = (F.cross_entropy(logits, targets, reduction="none") * weights).sum()
    right.backward()
    expected = {f"{model.base_model_prefix}.{n}": p.grad for n, p in trunk.named_parameters()}
    expected |= {f"classifier.{n}": p.grad for n, p in classifier.named_parameters()}
    largest = max(float(g.norm()) for g in expected.values() if g is not None)
    engine = engine_of(model, encoded.head, layout, pad_token_id=encoded.pad_token_id)
    for budget in (20, 1000):
        model.zero_grad()
        cut = pack_step(examples, range(len(LENGTHS)), budget, 1)[0]
        total = engine.gradients(examples, cut).loss.item()
        assert total == pytest.approx(right.item(), rel=EXACT)
        for name, parameter in model.named_parameters():
            difference = float((parameter.grad - expected[name]).norm())
            assert difference <= EXACT * max(float(expected[name].norm()), 0.01 * largest), name


@pytest.mark.parametrize(("kind", "pooling"), WAYS)
def test_packed_batches_are_chosen_and_not_refused(kind, pooling):
    model, encoded = setting(kind, pooling)
    engine = engine_of(model, encoded.head, pad_token_id=encoded.pad_token_id)
    chosen = choose_engine(
        engine, encoded.train, pk.FullFineTuning(), ["padded", "packed"], gradients=True
    )
    assert not chosen.notes
    assert (chosen.engine.layout, chosen.engine.forward.only_read) == ("packed", True)


def test_a_dropout_of_the_architecture_stands_before_the_classifier():
    for kind, dropout in (("bert", 0.1), ("llama", 0.0)):
        assert setting(kind, "mean")[0].dropout.p == dropout


@pytest.mark.parametrize(("kind", "pooling"), THREE + MARKERS)
@pytest.mark.parametrize(
    "method",
    [pk.PromptTuning(num_virtual_tokens=4), pk.PTuning(num_virtual_tokens=4),
     pk.PrefixTuning(num_virtual_tokens=4)],
    ids=lambda method: method.kind(),
)  # fmt: skip
def test_virtual_tokens_are_no_tokens_of_the_text(kind, pooling, method):
    model, encoded = setting(kind, pooling)
    trunk, classifier = trunk_of(model), model.classifier
    plain = dataclasses.replace(encoded.train, inputs={"input_ids": encoded.train.input_ids})
    model = method.inject(model, encoded, ("classifier",)).eval()
    engine = engine_of(model, encoded.head, pad_token_id=encoded.pad_token_id)
    batch = engine.batch(plain, range(len(LENGTHS)))
    expected = []
    with torch.inference_mode():
        ((_, found),) = engine.outputs(batch)
        prompt = model.get_prompt(batch_size=1)
        for index, row in enumerate(plain.input_ids):
            ids = torch.from_numpy(row).long()[None]
            mask = torch.ones(1, 4 + len(row))
            if method.kind() == "PrefixTuning":
                prompt = model.get_prompt(batch_size=1)  # a cache, which grows
                out = trunk(input_ids=ids, attention_mask=mask, past_key_values=prompt)
                hidden = out.last_hidden_state
            else:
                text = trunk.get_input_embeddings()(ids)
                embeddings = torch.cat([prompt, text], 1)
                out = trunk(inputs_embeds=embeddings, attention_mask=mask)
                hidden = out.last_hidden_state[:, 4:]
            expected.append(pooled(hidden, pooling, index) @ classifier.weight.T + classifier.bias)
    close(found, torch.cat(expected))


def test_padding_on_the_left_changes_nothing():
    for kind, pooling in (("bert", "mean"), ("bert", "cls")):
        model, _ = setting(kind, pooling)
        ids = torch.tensor([[5, 9, 7, 8]])
        padded = torch.tensor([[0, 0, 5, 9, 7, 8]])
        at = torch.tensor([[0, 0, 0, 1, 2, 3]])
        with torch.inference_mode():
            right = model(input_ids=ids).logits
            found = model(input_ids=padded, attention_mask=(padded > 0).long(), position_ids=at)
        close(found.logits, right)


# --- training, saving, loading


@pytest.fixture
def pooling_recipe(make_recipe, reviews):
    """As `make_recipe`, with a pooling: `pooling_recipe(pooling, method, base=..., ...)`."""

    def make(pooling, method=None, **options):
        task = pk.TextClassification(data=pk.Data(path=str(reviews)), pooling=pooling)
        return make_recipe(method, task=task, **options)

    return make


def test_the_kept_trunk_of_a_frozen_base_changes_nothing(pooling_recipe, monkeypatch):
    blocks = []

    def count(module, *_):
        if type(module).__name__ == "BertLayer":
            blocks.append(1)

    found = {}
    for way, families in (("kept", frozen_trunk.FAMILIES), ("anew", frozenset())):
        monkeypatch.setattr(frozen_trunk, "FAMILIES", families)
        blocks.clear()
        hook = torch.nn.modules.module.register_module_forward_hook(count)
        prepared = prepare(pooling_recipe("mean", pk.HeadOnly(), num_epochs=3))
        model, outcome = train_and_score(prepared, CPU, Clock(), Console(quiet=True))
        hook.remove()
        assert outcome.result.layout == "packed"
        found[way] = (model.classifier.weight.detach().clone(), outcome.after.metrics, len(blocks))
    assert found["kept"][2] < 0.6 * found["anew"][2]
    close(*(weight for weight, _, _ in found.values()))
    assert found["kept"][1] == pytest.approx(found["anew"][1], rel=1e-4)
    assert found["kept"][1]["accuracy"] > 0.6


SAVED = [
    (pk.LoRA(r=4, lora_alpha=8, target_modules="all-linear"), "none"),
    (pk.LoRA(r=4, lora_alpha=8, target_modules="all-linear"), "nf4"),
    (pk.FullFineTuning(), "none"),
    (pk.HeadOnly(), "none"),
    (pk.TopLayers(k=1), "none"),
    (pk.BitFit(), "none"),
    (pk.PrefixTuning(num_virtual_tokens=3), "none"),
    (pk.PromptTuning(num_virtual_tokens=3), "none"),
    (pk.BottleneckAdapter(), "none"),
]


OFTEN = {("llama", "LoRA-nf4"), ("llama", "PrefixTuning"), ("llama", "PromptTuning")}
"""Of the others than mean pooling of BERT, what is tried each time."""
COMBINED = [
    pytest.param(
        kind, pooling, method, quantization,
        id=f"{kind}-{pooling}-{name}",
        marks=() if kind + pooling == "bertmean" or (kind, name) in OFTEN else pytest.mark.slow,
    )
    for kind, pooling in THREE
    for method, quantization in SAVED
    for name in [method.kind() + ("" if quantization == "none" else f"-{quantization}")]
    if (kind, name) != ("llama", "BitFit")  # it has no biases
]  # fmt: skip


@pytest.mark.parametrize(("kind", "pooling", "method", "quantization"), COMBINED)
def test_what_was_trained_and_saved_answers_the_same(
    kind, pooling, method, quantization, pooling_recipe, tmp_path
):
    recipe = pooling_recipe(pooling, method, base=kind, quantization=quantization)
    prepared = prepare(recipe)
    base, encoded = prepared.base, prepared.encoded
    torch.manual_seed(0)
    loaded = load_weights(base, encoded.head, torch.float32, CPU.device, dropout=None)
    assert loaded.head == ("classifier",)
    assert set(loaded.random) == {"classifier.weight", "classifier.bias"}
    model = method.inject(loaded.model, encoded, loaded.head).train()
    before = {name: p.clone() for name, p in trainable_parameters(model).items()}
    optimizer = torch.optim.AdamW(list(trainable_parameters(model).values()), lr=1e-2)
    engine = engine_of(model, encoded.head, pad_token_id=encoded.pad_token_id)
    for _ in range(3):
        optimizer.zero_grad()
        engine.gradients(encoded.train, [range(8)])
        optimizer.step()
    same = [n for n, p in trainable_parameters(model).items() if torch.equal(p, before[n])]
    assert not same
    method.save(model, tmp_path)
    again = load_trained_model(tmp_path, recipe, base, encoded.head, CPU.device)
    with torch.inference_mode():
        batch = engine.batch(encoded.train, range(8))
        model.eval()
        ((_, right),) = engine.outputs(batch)
        ((_, found),) = engine_of(again, encoded.head).outputs(batch)
    close(found, right)


def test_checkpoints_of_other_heads_leave_no_weight_of_the_trunk_random(tmp_path):
    for kind, classes in {
        "bert": ("BertModel", "BertForMaskedLM", "BertForSequenceClassification"),
        "llama": ("LlamaModel", "LlamaForCausalLM"),
        "gpt2": ("GPT2Model", "GPT2LMHeadModel"),
    }.items():
        name, size = {**DECODERS, **ENCODERS}[kind]
        for of in classes:
            torch.manual_seed(0)
            saved = getattr(transformers, of)(getattr(transformers, name)(**size)).eval()
            saved.save_pretrained(tmp_path / of)
            save_tokenizer(tmp_path / of, "llama" if kind != "bert" else "bert")
            base = open_base(Base(name_or_path=str(tmp_path / of)))
            head = Head("AutoModel", "SEQ_CLS", LABELS, pooling="mean")
            loaded = load_weights(base, head, torch.float32, CPU.device, dropout=None)
            assert set(loaded.random) == {"classifier.weight", "classifier.bias"} or (
                of.endswith("Classification")
            )
            ids = torch.tensor([[5, 9, 7]])
            trunk = getattr(loaded.model.eval(), loaded.model.base_model_prefix)
            with torch.inference_mode():
                right = saved.base_model(input_ids=ids).last_hidden_state
                assert torch.equal(trunk(input_ids=ids).last_hidden_state, right)


# --- a whole run, and what may become of it


@pytest.fixture(scope="module")
def done(bases, reviews, tmp_path_factory):
    """A run of LoRA with mean pooling."""
    recipe = pk.Recipe(
        base=pk.Base(name_or_path=str(bases["bert"])),
        task=pk.TextClassification(data=pk.Data(path=str(reviews)), pooling="mean"),
        method=pk.LoRA(r=4, lora_alpha=8, target_modules="all-linear"),
        training=pk.Training(learning_rate=1e-2, num_epochs=2, batch_size=16),
        name="tiny",
    )
    return run(recipe, str(tmp_path_factory.mktemp("runs") / "tiny"))


TEXTS = ["the film was bright and warm", "dark awful scene", "a lovely story of the plot in it"]


def test_a_run_learns_is_planned_and_verified(done):
    assert done.record.test.after["accuracy"] > 0.8
    assert done.record.self_check == SelfCheck("packed", ())
    assert isinstance(done.record.plan, Plan)
    assert list(done.record.serve) == ["one model, for transformers"]
    assert not verify(str(done.folder)).problems
    assert Record.read(done.folder / "adapter").head.pooling == "mean"


def logits_of(adapter):
    inputs = adapter.tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        return adapter.model(**inputs).logits


def test_the_card_says_how_it_is_loaded(done, bases, capsys):
    card = (done.folder / "adapter/README.md").read_text()
    assert "from peft" not in card
    assert "library_name: peftkit" in card
    assert "AutoModelForSequenceClassification would load these weights and answer" in card
    (code,) = code_of_card(done.folder / "adapter", bases["bert"])
    found: dict[str, object] = {}
    exec(code.replace('["..."]', repr(TEXTS)), found)
    assert capsys.readouterr().out.startswith("[Prediction(label='good'")
    close(logits_of(found["classifier"]), logits_of(pk.load(str(done.folder))))


def test_merged_it_is_the_same_by_transformers_alone(done, bases, tmp_path):
    report = merge_to(str(done.folder), str(tmp_path / "merged"))
    assert report.relative < EXACT
    adapter = pk.load(str(done.folder))
    (code,) = code_of_card(tmp_path / "merged", bases["bert"])
    found: dict[str, object] = {}
    exec(code, found)
    close(found["classify"](TEXTS), logits_of(adapter))
    base = open_base(Base(name_or_path=str(tmp_path / "merged")))
    assert getattr(base.config, FIELD) == "mean"
    again = load_weights(base, adapter.record.head, torch.float32, CPU.device, dropout=None)
    assert not again.random
    own = Head("AutoModelForSequenceClassification", "SEQ_CLS", LABELS)
    assert not hasattr(empty_model(base, own).model.config, FIELD)


@pytest.mark.slow
def test_a_whole_model_says_how_it_is_loaded(pooling_recipe, bases, in_tmp):
    recipe = pooling_recipe("cls", pk.FullFineTuning(), max_steps=4, learning_rate=1e-3)
    folder = run(recipe).folder
    (code,) = code_of_card(folder / "adapter", bases["bert"])
    found: dict[str, object] = {}
    exec(code, found)
    close(found["classify"](TEXTS), logits_of(pk.load(str(folder))))


@pytest.mark.parametrize("to", ["peft", "vllm", "gguf-lora", "gguf", "ollama"])
def test_what_cannot_be_exported_is_refused_before_weights(done, bases, to, tmp_path):
    shutil.copytree(bases["bert"], tmp_path / "base")
    (tmp_path / "base/model.safetensors").unlink()
    told = "reads the hidden states themselves" if to in ("peft", "vllm") else "classification head"
    with pytest.raises(AdapterError, match=told):
        export(str(done.folder), to, str(tmp_path / "out"), base=str(tmp_path / "base"))
    assert not (tmp_path / "out").exists()


def test_it_is_predicted_from_the_command_line(done, capsys):
    command_line(["predict", str(done.folder), "--text", TEXTS[1]])
    assert "bad" in capsys.readouterr().out


def test_records_without_the_field_are_read(done, tmp_path):
    value = json.loads((done.folder / "adapter/peftkit.json").read_text())
    assert value["head"].pop("pooling") == "mean"
    value["head"]["auto_class"] = "AutoModelForSequenceClassification"
    (tmp_path / "peftkit.json").write_text(json.dumps(value))
    head = Record.read(tmp_path).head
    assert head == Head("AutoModelForSequenceClassification", "SEQ_CLS", ("bad", "good"))


def test_training_goes_on_from_the_same_pooling_only(done, pooling_recipe):
    lora = pk.LoRA(r=4, lora_alpha=8, target_modules="all-linear")
    recipe = pooling_recipe("mean", lora).with_(start_from=str(done.folder))
    assert prepare(recipe).start is not None
    for pooling in ("cls", "head"):
        recipe = pooling_recipe(pooling, lora).with_(start_from=str(done.folder))
        with pytest.raises(AdapterError, match=r'SEQ_CLS .*, pooling "mean", and this run is'):
            prepare(recipe)


# --- refusals, before weights


def test_the_first_token_of_a_decoder_is_refused(bases, pooling_recipe, tmp_path):
    shutil.copytree(bases["llama"], tmp_path / "llama")
    (tmp_path / "llama/model.safetensors").write_bytes(b"never read")
    recipe = pooling_recipe("cls", pk.HeadOnly())
    recipe = recipe.with_(base=pk.Base(name_or_path=str(tmp_path / "llama")))
    with pytest.raises(BaseModelError, match="its first token sees only itself") as told:
        prepare(recipe)
    assert 'use "mean"' in told.value.hint


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_an_encoder_with_a_decoder_is_refused(pooling, pooling_recipe, tmp_path):
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    transformers.T5Config(**sizes, vocab_size=80).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"never read")
    save_tokenizer(tmp_path, "bert")
    recipe = pooling_recipe(pooling, pk.HeadOnly())
    with pytest.raises(BaseModelError, match="t5 model, with an encoder and a decoder"):
        prepare(recipe.with_(base=pk.Base(name_or_path=str(tmp_path))))


SMALL = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
         "intermediate_size": 16, "max_position_embeddings": 32, "pad_token_id": 0}  # fmt: skip
GROUPED = {**SMALL, "num_key_value_heads": 2, "head_dim": 8}


@pytest.mark.parametrize(
    ("kind", "size", "left_to_right"),
    [
        ("Bert", SMALL, False),
        ("Bert", {**SMALL, "is_decoder": True}, True),
        ("Albert", {**SMALL, "embedding_size": 16}, False),
        ("MPNet", SMALL, False),
        ("DebertaV2", SMALL, False),
        ("Gemma3Text", GROUPED, True),
        ("Gemma3Text", {**GROUPED, "use_bidirectional_attention": True}, False),
        ("Bloom", {"vocab_size": 40, "hidden_size": 16, "n_layer": 1, "n_head": 2}, True),
        ("Llama", GROUPED, True),
        ("GPTNeoX", SMALL, True),
    ],
)
def test_who_reads_from_left_to_right_is_told_from_shapes(kind, size, left_to_right):
    config = getattr(transformers, f"{kind}Config")(**size)
    setattr(config, FIELD, "cls")
    made = pooled_class(config, "it")
    with torch.device("meta"):
        shapes = made.from_config(config)
    if left_to_right:
        with pytest.raises(BaseModelError, match="from left to right"):
            check_first_token(shapes, "it")
    else:
        check_first_token(shapes, "it")
    trunk = getattr(made.from_config(config).eval(), made.base_model_prefix)
    with torch.inference_mode():
        one, two = trunk(torch.tensor([[5, 6, 7], [5, 6, 8]])).last_hidden_state[:, 0]
    assert torch.allclose(one, two, atol=1e-6) == left_to_right
    assert virtual_tokens.reads_left_to_right(trunk) == left_to_right
