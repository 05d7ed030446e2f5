"""Tiny real models and data, made once per session; no network, no mocks."""

from __future__ import annotations

import csv
import gc
import json
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two pytest workers share two cores

GOOD = ["bright", "warm", "happy", "lovely", "shining", "great"]
BAD = ["dark", "cold", "angry", "awful", "broken", "poor"]
FILLER = "the a film story actor scene plot music and of in it was very".split()  # noqa: SIM905
CHINESE = list("好坏的是服务很物流慢快质量不错一般")


@pytest.fixture(autouse=True, scope="session")
def frozen_session() -> Iterator[None]:
    """Freezes what has been imported, once for all runs of the session."""
    from peftkit.bases.devices import frozen_gc

    with frozen_gc():
        yield


@pytest.fixture(autouse=True, scope="module")
def frozen_imports(frozen_session: None) -> None:
    """Freezes what has been imported since then, so that garbage collections skip it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def own_products() -> Iterator[None]:
    """Ends what a command set for the rest of its process: products by oneDNN."""
    from peftkit.bases import products

    yield
    products._in_use.clear()


def run_in_two_processes():
    """Runs recipe.json into the folder `two`, as two processes of a launcher do, without its new
    interpreters, which tests/test_line.py starts.
    """
    from accelerate.state import AcceleratorState, GradientState, PartialState

    from peftkit.cli.main import command_line

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    other = os.fork()
    rank = "1" if other == 0 else "0"
    os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for state in (PartialState, AcceleratorState, GradientState):
        state._shared_state.clear()  # it is that of a process without others
    command_line(["run", "recipe.json", "--output-dir", "two"])
    if other:
        assert os.waitpid(other, 0)[1] == 0


def call_forked(function: Callable[[], object], folder: Path) -> subprocess.CompletedProcess[str]:
    """Calls a function in a folder, in a process that has all that this one has imported: seconds
    less than a new interpreter takes.

    Returns:
        What it printed, and its exit code: 1 after an exception, that of a SystemExit.
    """
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # threads of libraries, which the child does not need
            child = os.fork()
        if child == 0:
            code = 1
            try:
                os.dup2(stdout.fileno(), 1)
                os.dup2(stderr.fileno(), 2)
                sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
                warnings.simplefilter("default")
                os.chdir(folder)
                sys.path.insert(0, str(folder))
                function()
                code = 0
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        stdout.seek(0)
        stderr.seek(0)
        ended = os.waitstatus_to_exitcode(status)
        return subprocess.CompletedProcess([], ended, stdout.read(), stderr.read())


def sentences(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """(text, label) pairs that a tiny model can learn: a few words decide the label."""
    rng = random.Random(seed)
    pairs = []
    for number in range(count):
        words = GOOD if number % 2 else BAD
        text = [*rng.choices(FILLER, k=rng.randint(3, 12)), *rng.choices(words, k=2)]
        rng.shuffle(text)
        pairs.append((" ".join(text), "good" if number % 2 else "bad"))
    return pairs


def write_csv(
    path: Path, rows: Iterable[Iterable[str]], header: Iterable[str] = ("text", "label")
) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([list(header), *map(list, rows)])
    return path


def code_of_card(adapter: Path, base: Path) -> list[str]:
    """The Python blocks of an adapter's model card, with their placeholders filled in."""
    blocks = re.findall(r"```python\n(.*?)```", (adapter / "README.md").read_text(), re.DOTALL)
    paths = {"path/to/the/base": base, "path/to/this/folder": adapter}
    for placeholder, path in paths.items():
        blocks = [block.replace(placeholder, str(path)) for block in blocks]
    return blocks


def save_tokenizer(folder: Path, kind: str) -> None:
    """A word-level tokenizer that transformers loads; `kind` is `bert` or `llama`."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"] if kind == "bert" else ["<unk>", "<s>", "</s>"]
    words = [*special, *GOOD, *BAD, *FILLER, *CHINESE, *(f"word{n}" for n in range(20))]
    unknown = "[UNK]" if kind == "bert" else "<unk>"
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token=unknown))
    tokenizer.normalizer = normalizers.BertNormalizer(handle_chinese_chars=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if kind == "bert":
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
        names = {
            "pad_token": "[PAD]",
            "unk_token": "[UNK]",
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
        }
    else:  # no padding token, as most decoders
        names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **names,
    ).save_pretrained(folder)


def save_model(folder: Path, kind: str) -> Path:
    """A tiny random trunk with its tokenizer, as a checkpoint on disk."""
    import torch
    from transformers import AutoModel, BertConfig, LlamaConfig

    torch.manual_seed(0)
    size = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 80}
    if kind == "bert":
        config = BertConfig(
            **size, intermediate_size=128, max_position_embeddings=64, initializer_range=0.08
        )
    else:
        config = LlamaConfig(
            **size, intermediate_size=128, max_position_embeddings=64, initializer_range=0.08,
            num_key_value_heads=2, bos_token_id=1, eos_token_id=2,
        )  # fmt: skip
    AutoModel.from_config(config).save_pretrained(folder)
    save_tokenizer(folder, kind)
    return folder


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {kind: save_model(folder / kind, kind) for kind in ("bert", "llama")}


QUESTIONS = ["Where is it?", "What is it?", "Is it here?", "Who are you?", "订单在哪里？"]
ANSWERS = ["It is here.", "A lamp.", "Yes, it is.", "I am Mira.", "今天到。"]


def conversations(count: int) -> list[dict[str, list[dict[str, str]]]]:
    """Rows of two exchanges each, which a tiny model can learn by heart."""
    rows = []
    for number in range(count):
        messages = []
        for place in (number % 5, number // 5 % 5):
            messages.append({"role": "user", "content": QUESTIONS[place]})
            messages.append({"role": "assistant", "content": ANSWERS[place]})
        messages[0] = {**messages[0], "content": f"{messages[0]['content']} ({number})"}
        rows.append({"messages": messages})
    return rows


def write_jsonl(path: Path, rows: Iterable[object]) -> Path:
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def chat_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with a ChatML template, whose padding token ends its turns, as in SmolLM2."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from tests.chat_formats import BY_NAME

    folder = tmp_path_factory.mktemp("bases") / "chat"
    tokenizer = BY_NAME["ChatML"].tokenizer()
    config = LlamaConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=128, max_position_embeddings=256, initializer_range=0.08,
        vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
        tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def talks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JSONL file of 60 conversations."""
    return write_jsonl(tmp_path_factory.mktemp("data") / "talks.jsonl", conversations(60))


@pytest.fixture(scope="session")
def make_chat(chat_base: Path, talks: Path) -> Callable[..., object]:
    """A recipe over the tiny chat base: `make_chat(method, data=path, task={...}, **training)`."""
    from peftkit import Base, Chat, Conversations, LoRA, Recipe, Training

    def make(method=None, data=talks, task=None, base=None, columns=None, **training):
        settings = {"learning_rate": 1e-2, "num_epochs": 2, "batch_size": 8, **training}
        options = {"samples": 1, "generation": {"max_new_tokens": 24}, **(task or {})}
        return Recipe(
            base=Base(**{"name_or_path": str(chat_base), **(base or {})}),
            task=Chat(data=Conversations(path=str(data), **(columns or {})), **options),
            method=method or LoRA(r=4, lora_alpha=8, target_modules="all-linear"),
            training=Training(**settings),
            name="talk",
        )

    return make


@pytest.fixture(scope="session")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of 200 rows with columns text and label."""
    return write_csv(tmp_path_factory.mktemp("data") / "reviews.csv", sentences(200))


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder is a new empty one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def make_recipe(bases: dict[str, Path], reviews: Path) -> Callable[..., object]:
    """A recipe over a tiny base: `make_recipe(method, base="bert", data=path, **training)`."""
    from peftkit import Base, Data, LoRA, Recipe, TextClassification, Training

    def make(method=None, base="bert", data=reviews, task=None, quantization="none", **training):
        settings = {"learning_rate": 1e-2, "num_epochs": 2, "batch_size": 16, **training}
        return Recipe(
            base=Base(name_or_path=str(bases[base]), quantization=quantization),
            task=task or TextClassification(data=Data(path=str(data))),
            method=method or LoRA(r=4, lora_alpha=8),
            training=Training(**settings),
            name="tiny",
        )

    return make
