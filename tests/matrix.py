"""The matrix: every method on every head, architecture and precision.

What a cell must do is in `examine`; which cells there are, in `CELLS`. A new method is a row in
`METHODS`, a new architecture one in `ARCHITECTURES`, a new head one in `HEADS`.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import peft
import torch
from rich.console import Console
from torch import Tensor, nn

import peftkit as pk
from peftkit.adapters.loading import load_trained_model
from peftkit.bases.devices import open_accelerator, weights_dtype
from peftkit.bases.loading import load_weights
from peftkit.bases.opening import open_base
from peftkit.data.encoded import Encoded, Examples
from peftkit.data.head import Head
from peftkit.data.ragged import Ragged
from peftkit.data.rows import Row
from peftkit.deploy.merging.folding import merged_model
from peftkit.errors import PeftkitError
from peftkit.methods.method import Method, trainable_parameters
from peftkit.methods.peft.layout import add_peft
from peftkit.stages.rehearsal import rehearse
from peftkit.tasks.label_set_loss import LabelSetCrossEntropy
from peftkit.tasks.losses import BinaryCrossEntropies, SquaredError
from peftkit.tasks.score import Score
from peftkit.tasks.task import Task
from peftkit.training import loop
from peftkit.training.forward.engine import Engine
from peftkit.training.forward.generating import _batches, generate, pad_prompts
from tests.examples import examples_from

METHODS: dict[str, tuple[Method, float]] = {
    "LoRA": (pk.LoRA(r=4), 1e-2),
    "LoRA, rsLoRA": (pk.LoRA(r=4, use_rslora=True), 1e-2),
    "LoRA, LoRA+": (pk.LoRA(r=4, loraplus_lr_ratio=16), 1e-3),
    "DoRA": (pk.DoRA(r=4), 1e-2),
    "PiSSA": (pk.PiSSA(r=4), 1e-2),
    "OLoRA": (pk.OLoRA(r=4), 1e-3),
    "EVA": (pk.EVA(r=2), 1e-2),
    "AdaLoRA": (pk.AdaLoRA(init_r=4, target_r=2), 1e-2),
    "IA3": (pk.IA3(), 3e-2),
    "PrefixTuning": (pk.PrefixTuning(num_virtual_tokens=4), 3e-2),
    "PrefixTuning, projected": (
        pk.PrefixTuning(num_virtual_tokens=4, prefix_projection=True), 3e-3,
    ),
    "PromptTuning": (pk.PromptTuning(num_virtual_tokens=4), 3e-2),
    "PTuning": (pk.PTuning(num_virtual_tokens=4), 3e-3),
    "Bottleneck, houlsby": (pk.BottleneckAdapter(reduction_factor=8), 1e-2),
    "Bottleneck, pfeiffer": (
        pk.BottleneckAdapter(placement="pfeiffer", reduction_factor=8, ln_before=True), 1e-2,
    ),
    "Bottleneck, parallel": (
        pk.BottleneckAdapter(placement="parallel", reduction_factor=8, scaling=4), 3e-3,
    ),
    "LayerNormTuning": (pk.LayerNormTuning(), 1e-2),
    "BitFit": (pk.BitFit(), 1e-2),
    "TopLayers": (pk.TopLayers(k=1), 1e-3),
    "HeadOnly": (pk.HeadOnly(), 1e-2),
    "FullFineTuning": (pk.FullFineTuning(), 1e-3),
    **{
        f"PeftMethod, {kind}": (pk.PeftMethod(config={"peft_type": kind, **fields}), rate)
        for kind, rate, fields in (
            ("LOHA", 1e-2, {"r": 4, "target_modules": "all-linear"}),
            ("LOKR", 1e-2, {"r": 4, "target_modules": "all-linear"}),
            ("OFT", 1e-2, {"oft_block_size": 8, "target_modules": "all-linear"}),
            ("VERA", 3e-2, {"r": 16, "target_modules": r".*\.(v_proj|value|c_attn|v)"}),
            ("HRA", 1e-2, {"r": 4, "target_modules": "all-linear"}),
            ("MISS", 1e-3, {"r": 4, "target_modules": "all-linear"}),
            ("RANDLORA", 1e-3, {"r": 4, "target_modules": "all-linear"}),
        )
    },
}  # fmt: skip
"""Name of a row -> the method, and a learning rate at which it learns within a few steps."""

STARTS_ELSEWHERE = ("PrefixTuning", "PromptTuning", "PTuning")
"""Methods of which no paper says that they begin at the base."""

PRECISIONS = ("float32", "bfloat16", "int8", "nf4", "nf4 bfloat16", "nf4 double", "fp4")

SIZE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 96}
SMALL = {**SIZE, "intermediate_size": 128, "max_position_embeddings": 64}
DECODER = {**SMALL, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("LlamaConfig", DECODER),
    "Qwen": ("Qwen3Config", {**DECODER, "head_dim": 32, "tie_word_embeddings": True}),
    "Gemma": (
        "Gemma3TextConfig",
        {
            **DECODER, "head_dim": 32, "sliding_window": 12,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "GPT-2": (
        "GPT2Config",
        {
            "n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 96, "n_positions": 64,
            "bos_token_id": 1, "eos_token_id": 2,
        },
    ),
    "BERT": ("BertConfig", SMALL),
    "T5": (
        "T5Config",
        {
            "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4,
            "vocab_size": 96, "feed_forward_proj": "gated-gelu", "decoder_start_token_id": 0,
            "eos_token_id": 2,
        },
    ),
}  # fmt: skip
"""Name -> configuration class of transformers and its fields."""


FURTHER: dict[str, tuple[str, dict[str, Any]]] = {
    "RoBERTa": ("RobertaConfig", {**SMALL, "max_position_embeddings": 80, "type_vocab_size": 1}),
    "DistilBERT": (
        "DistilBertConfig",
        {
            "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128, "vocab_size": 96,
            "max_position_embeddings": 64,
        },
    ),
    "ELECTRA": ("ElectraConfig", {**SMALL, "embedding_size": 32}),
    "DeBERTa-v2": (
        "DebertaV2Config",
        {
            **SMALL, "relative_attention": True, "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 16, "norm_rel_ebd": "layer_norm", "share_att_key": True,
        },
    ),
    "ModernBERT": (
        "ModernBertConfig",
        {
            **SMALL, "bos_token_id": 2, "cls_token_id": 2, "eos_token_id": 3, "sep_token_id": 3,
            "global_attn_every_n_layers": 2, "local_attention": 8,
        },
    ),
    "Mistral": ("MistralConfig", {**DECODER, "sliding_window": 6}),
    "Phi-3": ("Phi3Config", DECODER),
    "OPT": (
        "OPTConfig",
        {
            "hidden_size": 64, "word_embed_proj_dim": 64, "ffn_dim": 128, "num_hidden_layers": 2,
            "num_attention_heads": 4, "vocab_size": 96, "max_position_embeddings": 64,
            "eos_token_id": 2,
        },
    ),
    "BLOOM": (
        "BloomConfig",
        {"hidden_size": 64, "n_layer": 2, "n_head": 4, "vocab_size": 96, "eos_token_id": 2},
    ),
    "GPT-NeoX": ("GPTNeoXConfig", {**SMALL, "eos_token_id": 2}),
    "BART": (
        "BartConfig",
        {
            "d_model": 64, "encoder_layers": 3, "decoder_layers": 2, "encoder_attention_heads": 4,
            "decoder_attention_heads": 4, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128,
            "vocab_size": 96, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2,
            "decoder_start_token_id": 2,
        },
    ),
}  # fmt: skip
"""Further architectures: every method works there too, with a classification head in float32, or is
refused."""


class _BareTask(Task):
    """A head without rows: what methods and loading ask of a task."""

    auto_class: ClassVar[str]
    labels: ClassVar[tuple[str, ...]] = ()
    size: ClassVar[int | None] = None
    problem_type: ClassVar[str | None] = None
    markers: ClassVar[tuple[str, ...]] = ()
    scores = ("loss",)

    def targets(self, count: int, width: int) -> Tensor:
        """What `count` outputs learn: one of `width` classes each."""
        return torch.arange(count) * 7 % width


class Classification(_BareTask):
    task_type, auto_class = "SEQ_CLS", "AutoModelForSequenceClassification"
    labels = ("bad", "fair", "good")


class LabelSets(Classification):
    """Labels that do not exclude each other."""

    problem_type = "multi_label_classification"

    def targets(self, count: int, width: int) -> Tensor:
        """Whether each text has each of `width` labels."""
        return (torch.arange(1, count + 1)[:, None] >> torch.arange(width) & 1).float()

    def loss(self, training: Any = None) -> Any:
        return LabelSetCrossEntropy()


class OneNumber(_BareTask):
    """A number for each text."""

    task_type, auto_class = "SEQ_CLS", "AutoModelForSequenceClassification"
    size, problem_type = 1, "regression"

    def targets(self, count: int, width: int) -> Tensor:
        """Numbers, (count, 1)."""
        return (torch.arange(count) * 7 % 5 - 2.0)[:, None]

    def loss(self, training: Any = None) -> Any:
        return SquaredError()


class Levels(_BareTask):
    """Ordered levels: whether each text is above each of them."""

    task_type, auto_class = "SEQ_CLS", "AutoModelForSequenceClassification"
    labels, problem_type = ("above 1", "above 2", "above 3"), "multi_label_classification"

    def targets(self, count: int, width: int) -> Tensor:
        """0 or 1 for each level, (count, width)."""
        return (torch.arange(count)[:, None] % (width + 1) > torch.arange(width)).float()

    def loss(self, training: Any = None) -> Any:
        return BinaryCrossEntropies()


class Relations(Classification):
    """A class for two places of each text."""

    auto_class, markers = "AutoModel", ("[E1]", "[E2]")


class LanguageModel(_BareTask):
    task_type, auto_class = "CAUSAL_LM", "AutoModelForCausalLM"


class TokenLabels(_BareTask):
    task_type, auto_class = "TOKEN_CLS", "AutoModelForTokenClassification"
    labels = ("O", "B", "I")


class Answers(_BareTask):
    task_type, auto_class = "QUESTION_ANS", "AutoModelForQuestionAnswering"
    labels = ("start", "end")


class Seq2Seq(_BareTask):
    task_type, auto_class = "SEQ_2_SEQ_LM", "AutoModelForSeq2SeqLM"


DECODERS = ("Llama", "Qwen", "Gemma", "GPT-2")
HEADS: dict[str, tuple[_BareTask, tuple[str, ...]]] = {
    "classification": (Classification(), (*DECODERS, "BERT", "T5")),
    "label sets": (LabelSets(), (*DECODERS, "BERT", "T5")),
    "number": (OneNumber(), (*DECODERS, "BERT", "T5")),
    "levels": (Levels(), (*DECODERS, "BERT", "T5")),
    "relations": (Relations(), (*DECODERS, "BERT")),
    "language model": (LanguageModel(), DECODERS),
    "token labels": (TokenLabels(), (*DECODERS, "BERT", "T5")),
    "question answering": (Answers(), (*DECODERS, "BERT", "T5")),
    "sequence to sequence": (Seq2Seq(), ("T5",)),
}
"""Name -> head, and the architectures that transformers has it for."""
POOLED = ("classification", "label sets", "number", "levels", "relations")
"""Heads with one output for each text."""


@dataclass(frozen=True)
class Cell:
    """One place of the matrix."""

    method: str
    head: str
    architecture: str
    precision: str

    def __str__(self) -> str:
        return "-".join((self.method, self.head, self.architecture, self.precision)).replace(
            " ", "_"
        )


CELLS = [
    Cell(method, head, architecture, precision)
    for method, (head, (_, architectures)), precision in itertools.product(
        METHODS, HEADS.items(), PRECISIONS
    )
    for architecture in architectures
]


FURTHER_CELLS = [
    Cell(method, "classification", architecture, "float32")
    for architecture in FURTHER
    for method in METHODS
]


@dataclass
class Outcome:
    """What became of a cell: refused for a reason, or what it did."""

    refused: str = ""
    merges: str = ""
    """Empty if it does, else the reason why not."""
    generates: bool = False
    differences: dict[str, float] = field(default_factory=dict)
    """Check -> largest difference of the outputs, relative to their scale."""


def save_architecture(folder: Path, name: str) -> Path:
    """A tiny random checkpoint with a tokenizer."""
    import transformers

    from tests.conftest import save_tokenizer

    class_name, fields = (ARCHITECTURES | FURTHER)[name]
    fields = {"pad_token_id": 0, "initializer_range": 0.15, **fields}
    if name == "T5":
        fields = {k: v for k, v in fields.items() if k != "initializer_range"}
    torch.manual_seed(0)
    config = getattr(transformers, class_name)(**fields)
    auto = "AutoModelForSeq2SeqLM" if name == "T5" else "AutoModel"
    if name in DECODERS:  # an output layer of its own, where it is not tied
        auto = "AutoModelForCausalLM"
    getattr(transformers, auto).from_config(config).save_pretrained(folder)
    save_tokenizer(folder, "bert")
    return folder


def base_of(folder: Path, precision: str, **fields: Any) -> pk.Base:
    """The base of a cell."""
    kind = precision.split(maxsplit=1)[0]
    quantized = kind in ("int8", "nf4", "fp4")
    return pk.Base(
        name_or_path=str(folder),
        dtype="bfloat16" if "bfloat16" in precision else "float32",
        quantization=kind if quantized else "none",
        double_quant="double" in precision,
        **fields,
    )


@contextlib.contextmanager
def computing(precision: str) -> Iterator[None]:
    """As Accelerate has the model compute."""
    with torch.autocast("cpu", torch.bfloat16, enabled="bfloat16" in precision):
        yield


LENGTHS = (3, 5, 9, 12)


def rows(count: int = 4) -> list[np.ndarray]:
    """Texts of different lengths; the last token of each is the end of the text."""
    random = np.random.default_rng(0)
    lengths = itertools.islice(itertools.cycle(LENGTHS), count)
    return [np.append(random.integers(4, 90, size=n - 1), 2) for n in lengths]


def encoded_of(task: _BareTask) -> Encoded:
    ids = rows(256)
    examples = examples_from(ids, [0] * len(ids))
    if task.problem_type:
        targets = task.targets(len(ids), task.size or len(task.labels)).numpy()
        examples = replace(examples, targets=targets)
    if task.markers:
        examples = replace(examples, read_at=Ragged.of(map(places_in, ids), width=2))
    trained = bool(task.labels or task.size)
    head = Head(
        task.auto_class, task.task_type, task.labels, trained,
        size=task.size, problem_type=task.problem_type, markers=task.markers,
        pooling="markers" if task.markers else "",
    )  # fmt: skip
    return Encoded(examples, examples, examples, head, 0)


def places_in(text: np.ndarray) -> list[list[int]]:
    """The two places of a text that the head for relations reads."""
    return [[1, len(text) - 1]]


def padded(texts: list[np.ndarray]) -> dict[str, Tensor]:
    tensors = [torch.from_numpy(text) for text in texts]
    masks = [torch.ones_like(t) for t in tensors]
    pad = nn.utils.rnn.pad_sequence
    return {"input_ids": pad(tensors, True, 0), "attention_mask": pad(masks, True, 0)}


def outputs(model: nn.Module, texts: list[np.ndarray], cell: Cell) -> Tensor:
    """All outputs that are read, (outputs, classes or vocabulary), float32."""
    with computing(cell.precision):  # anew each time: it remembers rounded weights
        return _outputs(model, texts, cell.head)


def _outputs(model: nn.Module, texts: list[np.ndarray], head: str) -> Tensor:
    inputs = padded(texts)
    if head == "question answering" and getattr(model.config, "type_vocab_size", 1) > 1:
        half = torch.arange(inputs["input_ids"].shape[1]) >= 2  # the question, then the text
        inputs["token_type_ids"] = half.long().expand_as(inputs["input_ids"])
    if head == "sequence to sequence":
        decoder = torch.tensor([DECODER] * len(texts))
        return model(**inputs, decoder_input_ids=decoder).logits.float().flatten(0, 1)
    if head == "relations":
        starts = torch.arange(len(texts))[:, None] * inputs["input_ids"].shape[1]
        inputs["read_at"] = torch.tensor([places_in(text)[0] for text in texts]) + starts
    found = model(**inputs)
    if head in POOLED:
        return found.logits.float()
    if head == "question answering":
        logits = torch.stack((found.start_logits, found.end_logits), dim=-1)
    else:
        logits = found.logits
    width = inputs["input_ids"].shape[1]
    return logits.float()[:, -width:][inputs["attention_mask"].bool()]


def loss_of(model: nn.Module, cell: Cell) -> Tensor:
    found = outputs(model, rows(), cell)
    task, _ = HEADS[cell.head]
    return task.loss().values(found, task.targets(*found.shape)).mean()


def relative(found: Tensor, expected: Tensor) -> float:
    scale = max(1.0, float(expected.abs().max()))
    return float((found - expected).abs().max()) / scale


def refusal(cell: Cell, base: pk.Base) -> str:
    """Why the cell cannot work, as `peftkit check` says it; empty if it can."""
    method, _ = METHODS[cell.method]
    task, _ = HEADS[cell.head]
    if reason := method.refuses(task.expected_head, base):
        return reason
    try:
        opened = open_base(base, method.position_offset)
        rehearse(opened, encoded_of(task), method, pk.Training())
    except PeftkitError as error:
        return f"{error.message}; {error.hint}".rstrip("; ")
    return ""


EXACT = 2e-5
"""For two computations in float32 of the same model on the same batch."""
ROUNDED = {"bfloat16": 5e-2, "nf4 bfloat16": 5e-2, "int8": 5e-2}
"""For another batch, or the merged model: bfloat16 rounds, and int8 rounds activations too, by the
largest in the batch."""
STEPS = 6
DECODER = (0, 7, 8, 9)
"""What the decoder of each text reads."""


def examine(cell: Cell, folder: Path, work: Path) -> Outcome:
    """Everything that a cell must do. Raises AssertionError for what it does not.

    Args:
        folder: of the checkpoint.
        work: an empty folder.
    """
    method, rate = METHODS[cell.method]
    task, _ = HEADS[cell.head]
    base = base_of(folder, cell.precision)
    if reason := refusal(cell, base):
        return Outcome(refused=reason)
    outcome = Outcome()
    rounded = ROUNDED.get(cell.precision, EXACT)
    rounded_weights = rounded if "bfloat16" in cell.precision else EXACT

    def same(check: str, found: Tensor, expected: Tensor, allowed: float = EXACT) -> None:
        outcome.differences[check] = relative(found, expected)
        assert outcome.differences[check] <= allowed, f"{check}: {outcome.differences[check]:.2g}"

    opened = open_base(base, method.position_offset)
    recipe = pk.Recipe(base=base, task=task, method=method)
    encoded = encoded_of(task)
    torch.manual_seed(0)
    dtype = weights_dtype(base, method.trains_base_weights)
    loaded = load_weights(opened, encoded.head, dtype, torch.device("cpu"), 0.0)
    model = loaded.model.eval()
    texts = rows()

    def answers(some: nn.Module) -> Tensor:
        with torch.no_grad():
            return outputs(some.eval(), texts, cell)

    start = answers(model)
    model = method.inject(model, encoded, loaded.head)
    if not cell.method.startswith(STARTS_ELSEWHERE):
        same("starts at the base", answers(model), start, rounded_weights)
    train(cell, model, method, rate)
    first = answers(model)
    with torch.no_grad():
        alone = torch.cat([outputs(model, [text], cell) for text in texts])
    same("batch = single", alone, first, rounded)
    folders = [work / "first", work / "second"]
    for place in folders:
        place.mkdir()
    method.save(model, folders[0])
    disturb(model)
    second = answers(model)
    method.save(model, folders[1])
    assert relative(second, first) > max(0.01, 1.5 * rounded_weights), (
        "the second adapter is too much like the first"
    )
    fresh = load_trained_model(folders[0], recipe, opened, encoded.head, torch.device("cpu"))
    assert not trainable_parameters(fresh)
    same("reloads", answers(fresh), first, rounded_weights)
    switch(fresh, method, folders, loaded.head, "second")
    same("second adapter", answers(fresh), second, rounded_weights)
    switch(fresh, method, folders, loaded.head, "first")
    same("first adapter again", answers(fresh), first, rounded_weights)
    if cell.head in ("language model", "sequence to sequence"):
        outcome.generates = True
        with computing(cell.precision):
            logits, tokens = generated(fresh, [text[:-1] for text in texts])
        same("generation's first logits", *logits, rounded)
        if rounded == EXACT:  # else ties may fall otherwise
            assert tokens[0] == tokens[1], tokens
    outcome.merges = method.refuses_merging(base) or ""
    if not outcome.merges:
        merged = merged_model(folders[0], recipe, opened, encoded.head, dtype)
        assert not any("lora" in name for name, _ in merged.named_parameters())
        same("merged", answers(merged), first, rounded)
    return outcome


def train(cell: Cell, model: nn.Module, method: Method, rate: float) -> None:
    """A few steps of the real loop on four texts."""
    task, _ = HEADS[cell.head]
    training = pk.Training(
        learning_rate=rate, weight_decay=0, schedule="constant", warmup_ratio=0, max_grad_norm=0,
        num_epochs=STEPS, batch_size=len(LENGTHS), evaluate_every=STEPS,
    )  # fmt: skip
    base = base_of(Path("nowhere"), cell.precision)
    recipe = pk.Recipe(base=base, task=task, method=method, training=training)
    head = encoded_of(task).head
    engine = Engine.of(model, head, task.loss(), 0, 4096, open_accelerator(base))

    def score(_: Engine) -> Score:
        with torch.no_grad():
            return Score({"loss": float(loss_of(model, cell))}, {})

    trained = {name: p.detach().clone() for name, p in trainable_parameters(model).items()}
    assert trained
    result = loop.train(engine, learned(cell, model), recipe, score, Console(quiet=True))
    losses = [step.loss for step in result.history] + [result.best_value]
    assert losses[-1] < losses[0], f"the loss does not fall: {losses}"
    moved = [n for n, p in trainable_parameters(model).items() if not torch.equal(p, trained[n])]
    unmoved = {n for n in trained if n not in moved and not _may_rest(n)}
    assert not unmoved, f"trained, but never moved: {sorted(unmoved)[:5]}"


def learned(cell: Cell, model: nn.Module) -> Examples:
    """The four texts with the targets of `loss_of`."""
    with torch.no_grad():
        shape = outputs(model, rows(), cell).shape
    ids = rows()
    inputs = {"input_ids": Ragged.of(ids)}
    read = None if cell.head in POOLED else [np.arange(len(row)) for row in ids]
    if cell.head == "relations":
        read = [places_in(row) for row in ids]
    if cell.head == "sequence to sequence":
        inputs["decoder_input_ids"] = Ragged.of([DECODER] * len(ids))
        read = [np.arange(len(DECODER)) for _ in ids]
    if cell.head == "question answering" and getattr(model.config, "type_vocab_size", 1) > 1:
        inputs["token_type_ids"] = Ragged.of([np.arange(len(row)) >= 2 for row in ids])
    return Examples(
        rows=tuple(Row(number, {}) for number in range(len(ids))),
        inputs=inputs,
        targets=HEADS[cell.head][0].targets(*shape).numpy(),
        read_at=None
        if read is None
        else Ragged.of(read, width=2 if cell.head == "relations" else 1),
    )


def _may_rest(name: str) -> bool:
    """Tensors whose gradient is zero by nature: rows of unused tokens, the bias of keys (softmax
    does not see it), BERT's second segment.
    """
    if name.endswith((".lora_E.default", ".key.bias")):  # AdaLoRA takes some of its own away
        return True
    return (
        re.search(r"(?<!prompt_encoder\.default\.)\b(embed\w*|shared|wte|wpe)\b", name) is not None
    )


def disturb(model: nn.Module) -> None:
    """Another state of the trained tensors, as other training would leave."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in trainable_parameters(model).values():
            noise = torch.randn_like(parameter)
            parameter.add_(noise * max(0.3, float(parameter.abs().mean())))


def switch(
    model: Any, method: Method, folders: list[Path], head: tuple[str, ...], name: str
) -> None:
    """Puts the second adapter in, or the first one back, on the same base in memory."""
    if isinstance(model, peft.PeftModel):
        if name not in model.peft_config and name == "second":
            add_peft(model, folders[1], "second")
        model.set_adapter("default" if name == "first" else name)
        model.requires_grad_(False).eval()
    else:
        method.load(model, folders[0 if name == "first" else 1], head)


def generated(
    model: Any, prompts: list[np.ndarray]
) -> tuple[tuple[Tensor, Tensor], tuple[list[list[int]], list[list[int]]]]:
    """Of the prompts together, and one by one: the first new token's logits, and the tokens."""
    settings = {"max_new_tokens": 6, "eos_token_id": None}

    def first_logits(some: list[np.ndarray]) -> Tensor:
        inputs = pad_prompts(model, some, 0)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Position ids are not supported")
            found = model.generate(
                **inputs, max_new_tokens=1, output_logits=True, return_dict_in_generate=True,
                pad_token_id=0, do_sample=False,
            )  # fmt: skip
        return found.logits[0]

    alone = [[prompt] for prompt in prompts]  # from short to long
    batches = [[prompts[index] for index in batch] for batch in _batches(model, prompts, 16)]
    logits = torch.cat([*map(first_logits, batches)]), torch.cat([*map(first_logits, alone)])
    together = [row.tolist() for row in generate(model, prompts, 0, **settings)]
    single = [generate(model, prompt, 0, **settings)[0].tolist() for prompt in alone]
    return logits, (together, single)


def is_refused(cell: Cell) -> bool:
    """Which cells cannot work, written down apart from what the methods say of themselves."""
    method, kind = cell.method, cell.method.split(",")[-1].strip()
    quantized = cell.precision not in ("float32", "bfloat16")
    virtual = method.startswith(("PrefixTuning", "PromptTuning", "PTuning"))
    embedded = virtual and not method.startswith("PrefixTuning")
    return (
        (cell.architecture == "Gemma" and cell.head in ("token labels", "question answering"))
        or (quantized and method in ("PiSSA", "OLoRA", "TopLayers", "FullFineTuning"))
        or (quantized and kind in ("LOHA", "LOKR", "HRA", "RANDLORA"))
        or (method == "DoRA" and cell.precision == "int8")
        or (method == "OLoRA" and cell.architecture == "GPT-2")
        or (method == "EVA" and cell.head == "sequence to sequence")
        or (embedded and cell.head == "token labels")
        or (virtual and cell.architecture == "T5" and cell.head != "sequence to sequence")
        or (virtual and cell.architecture == "BERT" and cell.head == "question answering")
        or (method == "BitFit" and cell.architecture not in ("BERT", "GPT-2"))
        or (method == "HeadOnly" and cell.head in ("language model", "sequence to sequence"))
        or (kind in ("LOHA", "LOKR", "OFT", "HRA", "MISS") and cell.architecture == "GPT-2"
            and not quantized)
    )  # fmt: skip
