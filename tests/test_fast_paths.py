"""Each fast path computes the loss and the gradients of unpadded single documents."""

from __future__ import annotations

import contextlib
import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import (
    LoraConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)

import peftkit as pk
from peftkit.data.encoded import IGNORE_INDEX, Encoded, Examples
from peftkit.data.head import Head
from peftkit.data.ragged import Ragged
from peftkit.methods import lora_linear
from peftkit.methods.lora_linear import fused_lora_layers
from peftkit.methods.method import trainable_parameters
from peftkit.training.forward import short_attention
from peftkit.training.forward.batching import micro_batches, pack_step, padded_tokens
from peftkit.training.forward.collating import collate
from peftkit.training.forward.document_attention import (
    CannotPack,
    attend_within_documents,
    drop_repeated,
    repeat_shared,
)
from peftkit.training.forward.forward_pass import ForwardPass, HookedBatch, base_of
from peftkit.training.forward.frozen_below import modules_below
from peftkit.training.forward.frozen_trunk import FAMILIES, find_frozen_trunk
from peftkit.training.forward.grouped_attention import attend_in_groups, group_documents
from peftkit.training.forward.self_check import (
    cannot_pack,
    choose_engine,
    find_difference,
    one_by_one,
    shares_beginning,
)
from peftkit.training.forward.short_attention import attend_to_short_documents
from peftkit.training.forward.steps import Step
from peftkit.training.loop import keep_few_activations
from tests.engines import CPU, engine_of
from tests.examples import examples_from

LENGTHS = [5, 19, 9, 2, 30, 11]
EXACT = 1e-5
TINY = {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 80,
    "intermediate_size": 48, "max_position_embeddings": 64, "initializer_range": 0.2,
    "pad_token_id": 0,
}  # fmt: skip
GROUPED = {**TINY, "num_key_value_heads": 2, "head_dim": 8}
GEMMA = {**GROUPED, "sliding_window": 8, "query_pre_attn_scalar": 8}
DECODERS = {
    "llama": ("LlamaConfig", GROUPED),
    "mistral": ("MistralConfig", {**GROUPED, "sliding_window": 7}),
    "qwen2": ("Qwen2Config", GROUPED),
    "qwen3": ("Qwen3Config", GROUPED),
    "gemma": ("GemmaConfig", GROUPED),
    "gemma2": ("Gemma2Config", {**GEMMA, "final_logit_softcapping": 3.0}),
    "gemma3_text": ("Gemma3TextConfig", {**GEMMA, "sliding_window_pattern": 2}),
    "gpt2": ("GPT2Config", {
        "n_embd": 32, "n_layer": 3, "n_head": 4, "vocab_size": 80, "n_positions": 64,
        "initializer_range": 0.2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }),
}  # fmt: skip
ENCODERS = {
    "bert": ("BertConfig", TINY),
    "roberta": ("RobertaConfig", {**TINY, "pad_token_id": 1, "max_position_embeddings": 66}),
    "electra": ("ElectraConfig", {**TINY, "embedding_size": 16}),
}


def model_of(kind: str, auto: str, labels: int = 3):
    import transformers

    name, size = {**DECODERS, **ENCODERS}[kind]
    config = getattr(transformers, name)(**size)
    config.num_labels = labels
    torch.manual_seed(0)
    return getattr(transformers, auto).from_config(config).eval()


def examples_of(per_token: bool, segments: bool = False) -> Examples:
    random = np.random.default_rng(0)
    targets = [random.integers(0, 3, size=n if per_token else 1) for n in LENGTHS]
    for target in targets if per_token else ():
        target[::3] = IGNORE_INDEX
    return examples_from(
        [random.integers(4, 80, size=n) for n in LENGTHS],
        targets,
        [random.random(len(target)) for target in targets],
        [np.arange(n) > n // 2 for n in LENGTHS] if segments else None,
    )


def setting(kind, auto, segments=False):
    per_token = auto in ("AutoModelForCausalLM", "AutoModelForTokenClassification")
    examples = examples_of(per_token, segments)
    kinds = {"AutoModelForCausalLM": "CAUSAL_LM", "AutoModelForTokenClassification": "TOKEN_CLS"}
    head = Head(auto, kinds.get(auto, "SEQ_CLS"), ("a", "b", "c"))
    model = model_of(kind, auto)
    encoded = Encoded(examples, examples, examples, head, model.config.pad_token_id)
    return model, encoded


def inject(method, model, encoded):
    head = tuple(n for n, _ in model.named_children() if n in ("score", "classifier"))
    model = method.inject(model, encoded, head)
    torch.manual_seed(1)
    for parameter in trainable_parameters(model).values():  # B of LoRA is zero else
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    model.eval()
    for layer in fused_lora_layers(model):  # dropout rests, these compute as in training
        layer.train()
    return model


def beginning_alike(encoded):
    """With 9 tokens before each example, of which nothing is learned."""
    beginning, examples = np.arange(10, 19), encoded.train
    ids = [np.concatenate([beginning, ids]) for ids in examples.input_ids]
    put = {"inputs": {"input_ids": Ragged.of(ids)}}
    if examples.read_at is not None:
        put["read_at"] = replace(examples.read_at, values=examples.read_at.values + len(beginning))
    examples = replace(examples, **put)
    return replace(encoded, train=examples, validation=examples, test=examples)


def compare(engine, encoded, method):
    """Checks an engine on micro-batches, loss and each gradient."""
    model, examples = engine.model, encoded.train
    everything = tuple(range(len(examples)))
    right = one_by_one(engine, examples, everything, method, gradients=True)
    for budget in (20, 40, 1000):
        cut = pack_step(examples, everything, budget, 1, engine.layout)[0]
        total = engine.gradients(examples, cut).loss.item()
        assert total == pytest.approx(right.loss, rel=EXACT)
        compare_gradients(model, right.gradients)
        model.zero_grad()


def compare_gradients(model, right):
    largest = max(float(gradient.norm()) for gradient in right.values())
    for name, parameter in trainable_parameters(model).items():
        of = right[name]
        allowed = EXACT * max(float(of.norm()), 0.01 * largest)  # keys' biases have only noise
        assert float((parameter.grad - of).norm()) <= allowed, name


METHODS = [pk.LoRA(r=4), pk.FullFineTuning(), pk.IA3(), pk.BottleneckAdapter()]
CASES = [
    *((kind, "AutoModelForCausalLM") for kind in DECODERS),
    *((kind, "AutoModelForSequenceClassification") for kind in (*DECODERS, *ENCODERS)),
    *((kind, "AutoModelForTokenClassification") for kind in ENCODERS),
]


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("method", METHODS[:2], ids=["lora", "full"])
@pytest.mark.parametrize(("kind", "auto"), CASES, ids=lambda value: value.removeprefix("AutoModel"))
def test_it_computes_what_single_documents_do(kind, auto, method, layout, monkeypatch):
    monkeypatch.setattr(short_attention, "LONGEST", 10)  # some of the examples are longer
    model, encoded = setting(kind, auto, segments=kind == "bert")
    model = inject(method, model, encoded)
    engine = engine_of(model, encoded.head, layout, pad_token_id=encoded.pad_token_id)
    compare(engine, encoded, method)
    chosen = choose_engine(engine, encoded.train, method, [layout], gradients=True)
    assert not chosen.notes
    assert (chosen.engine.layout, chosen.engine.forward.only_read) == (layout, True)
    if auto == "AutoModelForCausalLM":
        assert chosen.engine.forward.in_chunks


@pytest.mark.parametrize("method", METHODS[:2], ids=["lora", "full"])
@pytest.mark.parametrize("auto", ["AutoModelForCausalLM", "AutoModelForSequenceClassification"])
@pytest.mark.parametrize("kind", DECODERS)
def test_what_examples_begin_with_is_computed_once(kind, auto, method, monkeypatch):
    monkeypatch.setattr(short_attention, "LONGEST", 20)
    model, encoded = setting(kind, auto)
    encoded = beginning_alike(encoded)
    row = collate(encoded.train, range(6), encoded.pad_token_id, "shared")
    assert row.shared == 9
    assert row.input_ids.numel() == encoded.train.num_tokens - 5 * 9
    assert not collate(encoded.train, (), encoded.pad_token_id, "shared").shared
    model = inject(method, model, encoded)
    engine = engine_of(model, encoded.head, "shared", pad_token_id=encoded.pad_token_id)
    compare(engine, encoded, method)
    chosen = choose_engine(engine, encoded.train, method, ["padded", "packed"], gradients=True)
    assert (chosen.engine.layout, chosen.notes) == ("shared", ())


def test_only_what_is_not_read_and_is_alike_is_shared():
    examples = beginning_alike(setting("llama", "AutoModelForCausalLM")[1]).train
    assert examples.shared_tokens((0, 1)) == 9
    assert examples.shared_tokens((0,)) == examples.shared_tokens(()) == 0
    assert padded_tokens(examples, (0, 1), "shared") == 5 + 19 + 9 + 9 - 6  # attention has 9 twice
    examples.read_at[1][0] = 8
    assert examples.shared_tokens((0, 1)) == 8
    assert examples.shared_tokens((0, 2)) == 9
    examples.input_ids[2][7] += 1
    assert examples.shared_tokens((0, 2)) == 0  # seven are too few
    whole = examples_from([np.arange(9), np.arange(12)], [[0], [0]])
    assert whole.shared_tokens((0, 1)) == 8  # an output is read at the last
    inputs = {**examples.inputs, "token_type_ids": examples.input_ids}
    assert replace(examples, inputs=inputs).shared_tokens((0, 1)) == 0


@pytest.mark.parametrize(("budget", "rows"), [(1000, 1), (60, 2), (30, 4), (8, 6)])
def test_rows_that_share_are_as_long_as_they_cost(budget, rows):
    examples = beginning_alike(setting("llama", "AutoModelForCausalLM")[1]).train
    (parts,) = pack_step(examples, range(6), budget, 1, "shared")
    assert sorted(index for part in parts for index in part) == list(range(6))
    assert len(parts) == rows
    for part in parts:
        assert len(part) == 1 or padded_tokens(examples, part, "shared") <= budget


def test_a_beginning_longer_than_the_budget_leaves_half_of_it():
    random = np.random.default_rng(0)
    beginning = random.integers(4, 80, size=1000)
    ids = [np.concatenate([beginning, random.integers(4, 80, size=20)]) for _ in range(8)]
    learned = [np.r_[np.full(1010, IGNORE_INDEX), np.ones(10, np.int64)] for _ in ids]
    examples = examples_from(ids, learned)
    for budget, rows in ((500, 8), (768, 8), (1080, 4), (1518, 4)):  # each costs 270
        assert len(pack_step(examples, range(8), budget, 1, "shared")[0]) == rows
    step, budget = Step(1, 1, tuple(range(8)), last_of_epoch=False), 8192
    config = model_of("llama", "AutoModelForCausalLM").config
    config.num_hidden_layers, config.hidden_size = 30, 576
    assert len(micro_batches(examples, step, budget, "shared", CPU, config)) == 4
    assert len(micro_batches(examples, step, budget, "packed", CPU, config)) == 8


@pytest.mark.parametrize("call", [1, 1000])
def test_what_is_shared_attends_in_groups_too(call):
    torch.manual_seed(0)
    lengths, shared = (12, 9, 14), 8
    row = [torch.randn(1, heads, 35 - 16, 8, requires_grad=True) for heads in (4, 2, 2)]
    asked = {"document_lengths": lengths, "shared_tokens": shared}
    alone, _ = attend_within_documents(torch.nn.Module(), *row, None, **asked)
    groups = group_documents(lengths, torch.device("cpu"), call)
    whole = [repeat_shared(tensor, lengths, shared) for tensor in row]
    found = drop_repeated(
        attend_in_groups(*whole, groups, True, None, 0.0, None, None), lengths, shared
    )
    torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-6)


def test_a_frozen_trunk_takes_whole_examples():
    model, encoded = setting("llama", "AutoModelForCausalLM")
    encoded = beginning_alike(encoded)
    engine = engine_of(model, encoded.head, "shared")
    assert engine.with_trunk(None).layout == "shared"
    blocks = model.model.layers
    trunk = find_frozen_trunk(model, list(blocks[:1]), every_token=True, num_passes=2)
    assert engine.with_trunk(trunk).layout == "packed"


def test_an_encoder_shares_nothing():
    model, encoded = setting("bert", "AutoModelForTokenClassification")
    encoded = beginning_alike(encoded)
    engine, method = engine_of(model, encoded.head, "shared"), pk.HeadOnly()
    indices = tuple(range(len(LENGTHS)))
    assert not shares_beginning(model, encoded.train)
    right = one_by_one(engine, encoded.train, indices, method, gradients=False)
    wrong = find_difference(engine, right, encoded.train, indices, method)
    assert "lets shared tokens see" in wrong


@pytest.mark.parametrize("method", METHODS[2:], ids=["ia3", "bottleneck"])
@pytest.mark.parametrize(
    ("kind", "auto"),
    [("llama", "AutoModelForCausalLM"), ("bert", "AutoModelForSequenceClassification")],
)
def test_other_methods_are_packed_too(kind, auto, method):
    model, encoded = setting(kind, auto)
    model = inject(method, model, encoded)
    compare(engine_of(model, encoded.head, "packed"), encoded, method)


AGAIN = [(*case, "packed") for case in (CASES[0], CASES[-4], CASES[9])]


@pytest.mark.parametrize(("kind", "auto", "layout"), [*AGAIN, (*CASES[0], "shared")])
def test_activations_computed_again_are_those_of_the_packed_row(kind, auto, layout):
    model, encoded = setting(kind, auto)
    encoded = beginning_alike(encoded) if layout == "shared" else encoded
    model = inject(pk.LoRA(r=4), model, encoded)
    examples, indices = encoded.train, tuple(range(len(LENGTHS)))
    engine = engine_of(model, encoded.head, layout, pad_token_id=encoded.pad_token_id)
    right = one_by_one(engine, examples, indices, pk.LoRA(), gradients=True)
    keep_few_activations(model)
    model.train()  # else transformers keeps all activations
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    engine.gradients(examples, [indices])
    compare_gradients(model, right.gradients)


def test_lora_layers_train_after_another_rank_in_the_same_model():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5))
    configs = {r: LoraConfig(r=r, target_modules=["0"], init_lora_weights=False) for r in (2, 4)}
    for config in configs.values():
        lora_linear.Linear.place(config)
    tuned = get_peft_model(model, configs[2])
    tuned.add_adapter("other", configs[4])
    x = torch.randn(3, 6)
    for name in ("default", "other", "default"):
        tuned.set_adapter(name)
        gradients = {}
        for fused in (True, False):
            (layer,) = lora_linear.fused_lora_layers(tuned)
            layer.fused = fused
            tuned.zero_grad()
            tuned.train()(x).square().sum().backward()
            trained = trainable_parameters(tuned).items()
            gradients[fused] = {name: p.grad.clone() for name, p in trained}
        for one, right in zip(*(found.values() for found in gradients.values()), strict=True):
            torch.testing.assert_close(one, right)
        layer.unfuse()
        assert layer.base_layer.weight.is_contiguous()


def test_a_backward_pass_is_of_its_own_adapter():
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=["0"], init_lora_weights=False)
    lora_linear.Linear.place(config)
    tuned = get_peft_model(torch.nn.Sequential(torch.nn.Linear(6, 5)), config)
    tuned.add_adapter("other", config)
    x = torch.randn(3, 6, requires_grad=True)
    found = []
    for fused in (True, False):
        (layer,) = lora_linear.fused_lora_layers(tuned)
        layer.fused = fused
        tuned.set_adapter("default")
        first = tuned.train()(x).square().sum()
        tuned.set_adapter("other")
        second = tuned(x).square().sum()
        found.append(torch.autograd.grad(first + second, x)[0])
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("call", [1, 8, 1000])
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("causal", [True, False])
def test_documents_in_groups_attend_as_one_by_one(causal, window, softcap, call, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(short_attention, "LONGEST", 6)
    lengths = (1, 5, 16, 9, 2, 5, 13)
    row = [torch.randn(1, heads, sum(lengths), 8, requires_grad=True) for heads in (4, 2, 2)]
    groups = group_documents(lengths, torch.device("cpu"), call)
    out = attend_in_groups(*row, groups, causal, None, 0.0, window, softcap)
    options = {"is_causal": causal, "sliding_window": window, "softcap": softcap}
    alone, _ = attend_within_documents(
        torch.nn.Module(), *row, None, **options, document_lengths=lengths
    )
    torch.testing.assert_close(out, alone, rtol=1e-5, atol=1e-6)
    weight = torch.randn_like(out)
    found = torch.autograd.grad((out * weight).sum(), row)
    right = torch.autograd.grad((alone * weight).sum(), row)
    for one, other in zip(found, right, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("causal", [True, False])
def test_short_documents_have_the_gradients_of_their_attention(causal, dropout):
    torch.manual_seed(0)
    lengths = (1, 4, 2)
    row = [torch.randn(7, heads, 3, dtype=torch.float64, requires_grad=True) for heads in (4, 2, 2)]

    def attend(*row):
        torch.manual_seed(1)  # the same weights are dropped each time
        return attend_to_short_documents(*row, lengths, causal, None, dropout)

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert torch.autograd.gradcheck(attend, row)
        with pytest.raises(RuntimeError):
            attend(row[0], row[1][:3], row[2])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_short_documents_lose_weights_by_dropout_as_often_as_asked():
    torch.manual_seed(0)
    query, key = torch.zeros(1, 1, 1), torch.zeros(1, 1, 1)
    kept = [
        attend_to_short_documents(query, key, key + 1, (1,), False, None, 0.25).item()
        for _ in range(2000)
    ]
    assert {round(weight, 4) for weight in kept} == {0.0, 1.3333}
    assert sum(kept) / len(kept) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("lengths", [(1, 5, 16, 9, 2), (70, 3, 90)])
def test_the_first_tokens_attend_as_all_do(lengths):
    torch.manual_seed(0)
    row = [torch.randn(1, 4, sum(lengths), 8, requires_grad=True) for _ in "qkv"]
    asked = {"is_causal": False, "document_lengths": lengths}
    every, _ = attend_within_documents(torch.nn.Module(), *row, None, **asked)
    first, _ = attend_within_documents(torch.nn.Module(), *row, None, **asked, only_first=True)
    starts = [sum(lengths[:place]) for place in range(len(lengths))]
    torch.testing.assert_close(first[:, starts], every[:, starts], rtol=1e-5, atol=1e-6)
    assert float(first.abs().sum(dim=(0, 2, 3)).gt(0).sum()) == len(lengths)
    weight = torch.randn_like(every[:, starts])
    found = torch.autograd.grad((first[:, starts] * weight).sum(), row)
    right = torch.autograd.grad((every[:, starts] * weight).sum(), row)
    for one, other in zip(found, right, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_what_attention_cannot_do_is_refused():
    row = [torch.randn(1, 2, 6, 8) for _ in range(3)]
    for asked in ({"position_bias": torch.ones(1)}, {"s_aux": torch.ones(2)}):
        with pytest.raises(CannotPack, match=next(iter(asked))):
            attend_within_documents(torch.nn.Module(), *row, None, document_lengths=(2, 4), **asked)
    with pytest.raises(CannotPack, match="its own mask"):
        attend_within_documents(torch.nn.Module(), *row, torch.ones(1), document_lengths=(2, 4))


def test_a_model_that_scales_its_logits_is_left_to_do_so():
    from transformers import CohereConfig, CohereForCausalLM

    torch.manual_seed(0)
    model = CohereForCausalLM(CohereConfig(**GROUPED, logit_scale=0.3)).eval()
    _, encoded = setting("llama", "AutoModelForCausalLM")
    model = inject(pk.LoRA(r=4), model, encoded)
    engine = engine_of(model, encoded.head, "packed")
    compare(engine, encoded, pk.LoRA())
    assert not engine.forward.in_chunks


class _PackedBatch(HookedBatch):
    def _run(self):
        inputs = {"position_ids": self.batch.positions}
        for name, value in self.forward.inputs.items():
            inputs[name] = value(self.batch) if callable(value) else value
        return self.forward.model(input_ids=self.batch.input_ids, **inputs).logits


class _Packed(ForwardPass):
    """Packs without peftkit's attention: the ways that facts and forums tell of."""

    def __init__(self, engine, **inputs):
        super().__init__(engine.model, "tokens", "packed", only_read=False)
        self.inputs = inputs

    @contextlib.contextmanager
    def hooked(self, batch, trunk=None, perturbation=None):
        yield _PackedBatch(self, batch)


def block_mask(batch):
    documents = torch.repeat_interleave(torch.tensor(batch.lengths))
    return (documents[:, None] == documents)[None, None]


WRONG = {
    "llama, default use_cache": ("llama", "sdpa", {}),
    "llama, mask of ones": (
        "llama", "sdpa",
        {"attention_mask": lambda b: torch.ones_like(b.input_ids), "use_cache": False},
    ),
    "bert, positions and no mask": ("bert", "sdpa", {}),
    "bert, boolean block mask on eager": ("bert", "eager", {"attention_mask": block_mask}),
}  # fmt: skip
RIGHT = {
    "llama, no mask and no cache": ("llama", "sdpa", {"use_cache": False}),
    "bert, boolean block mask on sdpa": ("bert", "sdpa", {"attention_mask": block_mask}),
}


@pytest.mark.parametrize("case", [*WRONG, *RIGHT])
def test_the_self_check_sees_what_is_silently_wrong(case):
    kind, attention, inputs = {**WRONG, **RIGHT}[case]
    auto = "AutoModelForCausalLM" if kind == "llama" else "AutoModelForTokenClassification"
    model, encoded = setting(kind, auto)
    model = inject(pk.FullFineTuning(), model, encoded)
    indices = tuple(range(len(LENGTHS)))
    engine, method = engine_of(model, encoded.head), pk.FullFineTuning()
    right = one_by_one(engine, encoded.train, indices, method, gradients=True)
    model.set_attn_implementation(attention)
    packed = replace(engine, forward=_Packed(engine, **inputs))
    wrong = find_difference(packed, right, encoded.train, indices, method)
    assert ("differ by" in wrong) == (case in WRONG), wrong


VIRTUAL = {
    "prefix": PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    "prompt": PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    "p-tuning": PromptEncoderConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=4, encoder_hidden_size=16
    ),
}


@pytest.mark.filterwarnings("ignore:Position ids are not supported")
@pytest.mark.parametrize("kind", VIRTUAL)
def test_the_self_check_sees_that_virtual_tokens_cannot_be_packed(kind):
    model, encoded = setting("llama", "AutoModelForCausalLM")
    model = get_peft_model(model, copy.deepcopy(VIRTUAL[kind])).eval()
    indices = tuple(range(len(LENGTHS)))
    engine, method, examples = engine_of(model, encoded.head), pk.HeadOnly(), encoded.train
    right = one_by_one(engine, examples, indices, method, gradients=True)
    packed = replace(engine, forward=_Packed(engine, use_cache=kind == "prefix"))
    assert "differ by" in find_difference(packed, right, examples, indices, method)
    chosen = choose_engine(engine, examples, method, ["padded", "packed"], gradients=True)
    assert chosen.engine.layout == "padded"
    assert "packed batches cannot be used" in chosen.notes[0]


@pytest.mark.parametrize("auto", ["AutoModelForCausalLM", "AutoModelForSequenceClassification"])
@pytest.mark.parametrize("method", [
    pk.PrefixTuning(num_virtual_tokens=3), pk.PromptTuning(num_virtual_tokens=3),
])  # fmt: skip
def test_with_virtual_tokens_only_what_is_read_is_computed(method, auto):
    model, encoded = setting("llama", auto)
    model = inject(method, model, encoded)
    engine = engine_of(model, encoded.head)
    chosen = choose_engine(engine, encoded.train, method, method.layouts, gradients=True)
    assert chosen.engine.forward.only_read
    assert chosen.engine.layout == "padded"


def test_an_architecture_with_an_attention_of_its_own_is_padded():
    from transformers import T5Config, T5ForSequenceClassification

    config = T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, vocab_size=80)
    assert "an encoder and a decoder" in cannot_pack(T5ForSequenceClassification(config))
    from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

    deberta = DebertaV2ForSequenceClassification(DebertaV2Config(**TINY))
    assert "its own attention" in cannot_pack(deberta)


TRUNKS = [
    (kind, auto)
    for auto in ("AutoModelForCausalLM", "AutoModelForSequenceClassification")
    for kind in (DECODERS if auto == "AutoModelForCausalLM" else (*DECODERS, *ENCODERS))
]


@pytest.mark.parametrize("method", [pk.HeadOnly(), pk.TopLayers(k=1)], ids=["head", "top"])
@pytest.mark.parametrize(("kind", "auto"), TRUNKS, ids=lambda v: v.removeprefix("AutoModel"))
def test_a_kept_trunk_changes_nothing(kind, auto, method):
    if auto == "AutoModelForCausalLM" and method.kind() == "HeadOnly":
        return  # nothing is trained
    model, encoded = setting(kind, auto)
    model = inject(method, model, encoded)
    assert base_of(model).config.model_type in FAMILIES
    engine = engine_of(model, encoded.head, "packed", pad_token_id=encoded.pad_token_id)
    below = modules_below(model, engine.in_layout("padded").batch(encoded.train, [1]))
    every_token = engine.forward.every_token
    trunk = find_frozen_trunk(base_of(model), below, every_token, num_passes=3)
    engine = engine.with_trunk(trunk)
    assert trunk.num_frozen == (3 if method.kind() == "HeadOnly" else 2)
    calls = []
    left_out = [getattr(holder, name) for holder, name in trunk.places]
    for module in (left_out[0], left_out[-1]):  # the first block; an encoder's embeddings
        module.register_forward_hook(lambda *_: calls.append(1))
    compare(engine, encoded, method)  # what one of its budgets leaves serves the others
    packed = len(calls)
    compare(engine, encoded, method)
    assert (len(left_out) > trunk.num_frozen) is (kind in ENCODERS)
    assert len(calls) - packed == 2 * len(LENGTHS), "only the reference ran the frozen blocks again"
