"""Recipes of all tasks but chat and sentiment learn on a slice; all recipes read other files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from peftkit import main
from peftkit.cli.main import command_line
from peftkit.data.packaged import MODELS, find_packaged
from peftkit.data.reading import read_source
from peftkit.parts.scripts import import_file
from tests.conftest import conversations, write_jsonl

RECIPES = Path(__file__).parent.parent / "recipes"
SMALL_TEST = ("--task.data.validation-fraction", "0.05", "--task.data.test-fraction", "0.05")
STEPS = ("--training.max-steps", "50", *SMALL_TEST)
RATE = ("--training.learning-rate", "1e-2", *SMALL_TEST)
SHORT = ("--task.max-length", "64", "--task.max-target-length", "64")
SLICE = {
    "intents_en": ("accuracy", 0.7, STEPS),
    "intents_zh": ("accuracy", 0.7, ("--training.num-epochs", "1", *RATE)),
    "entities_en": ("strict_f1", 0.4, STEPS),
    "entities_zh": ("strict_f1", 0.4, RATE),
    "relations_en": ("official_f1", 0.4, ("--training.num-epochs", "15")),
    "relations_zh": ("official_f1", 0.1, ("--training.learning-rate", "1e-2")),
    "ranking_en": ("mrr", 0.42, ("--training.num-epochs", "4")),
    "ranking_zh": ("mrr", 0.3, ("--training.num-epochs", "1")),
    "questions_en": ("f1", 0.13, ("--training.num-epochs", "8")),
    "questions_zh": ("f1", 0.12, ("--training.num-epochs", "8")),
    "translation_en_de": ("token_accuracy", 0.2, (*SHORT, *RATE)),
    "translation_en_zh": ("token_accuracy", 0.1, (*SHORT, *RATE)),
    "summarization": ("token_accuracy", 0.18, RATE[:2]),
    "qa_generative": ("token_accuracy", 0.12, (*SHORT, *RATE[:2])),
    "regression": ("r2", 0.2, ("--training.learning-rate", "3e-3", *STEPS)),
}
"""Metric, what it must reach on the test split, and overrides for the slice. The bases are the
first two blocks of MiniLM, and for Chinese a small random one, so that the numbers say only that a
recipe learns; on a random base `ranking_zh`, `questions_zh` and `relations_zh` stay near chance,
about 0.41, 0.14 and 0.11, and only their loss falls."""
QUICK = ("intents_zh", "questions_zh", "ranking_zh")
"""Those that run within `make test`; `make slow` has the rest."""
CHANCE = sum(1 / rank for rank in range(1, 7)) / 6
"""Expected reciprocal rank of one right passage among six that are ranked at random."""


WRITING = ("translation", "summarization", "qa_generative")
"""Beginnings of the names of recipes on a causal base that write texts."""


def units(text: str) -> list[str]:
    """Words, and Chinese characters one by one."""
    return re.findall(r"[\u4e00-\u9fff]|[^\W\u4e00-\u9fff]+|[^\w\s]", text.lower())


@pytest.fixture(scope="module")
def random_base(tmp_path_factory) -> str:
    """A random BERT of two layers that knows the characters of the Chinese sets."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    found: set[str] = set()
    for name in (n for n in SLICE if n.endswith("_zh") and not n.startswith(WRITING)):
        for _, row in read_source(recipe_of(name).task.source)["all"].rows:
            texts = (row.get(name, "") for name in ("text", "text_pair", "context", "question"))
            found.update(units(" ".join(texts)))
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {token: place for place, token in enumerate([*special, *sorted(found)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("base")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", model_max_length=128,
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=64, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=128, max_position_embeddings=128, initializer_range=0.1,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return str(folder)


def recipe_of(name: str):
    return import_file(RECIPES / f"{name}.py").recipe()


def run(name: str, folder: Path, base: str, capsys, *overrides: str) -> dict:
    common = ["--json", "--output-dir", str(folder), "--base.name-or-path", base]
    main(import_file(RECIPES / f"{name}.py").recipe, [*common, *overrides])
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def small_minilm(tmp_path_factory) -> str:
    """The first two blocks of MiniLM."""
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    folder, whole = (
        tmp_path_factory.mktemp("minilm"),
        find_packaged("packaged:minilm-l6", MODELS)[1],
    )
    config = AutoConfig.from_pretrained(whole, num_hidden_layers=2)
    AutoModel.from_pretrained(whole, config=config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(whole).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in SLICE]
)
def test_it_learns_on_a_slice(name, request, tmp_path, capsys):
    metric, least, overrides = SLICE[name]
    kind = "random_base" if name.endswith("_zh") else "small_minilm"
    base = request.getfixturevalue("chat_base" if name.startswith(WRITING) else kind)
    record = run(name, tmp_path / "run", str(base), capsys, *overrides)
    test = record["test"]
    assert test["after"][metric] >= least
    assert test["after"]["loss"] < test["before"]["loss"]
    assert record["probes"]["max_difference"] < 1e-4
    if name.startswith("ranking"):
        assert test["baseline"]["constant"]["mrr"] == pytest.approx(CHANCE)


def other_rows(name: str) -> list[dict]:
    """Rows of the shape that a recipe reads, which no package ships."""
    words = [f"w{number % 7} w{number % 11} w{number}" for number in range(60)]
    if name.startswith("chat"):
        rows = conversations(40)
        return [{**row, "scenario": number, "language": "en"} for number, row in enumerate(rows)]
    if name.startswith("relations"):
        return [
            {"text": text, "pairs": [{"head": [0, 2], "tail": [3, 5], "relation": f"r{n % 2}"}]}
            for n, text in enumerate(words)
        ]
    if name.startswith(WRITING):
        return [
            {"source": text, "target": f"t{n}", "abstract": text, "summary": f"s{n}", "title": text,
             "context": text, "question": f"which {n}?", "answers": [f"a{n}"]}
            for n, text in enumerate(words)
        ]  # fmt: skip
    if name.startswith("ranking"):
        return [
            {"text": words[number // 3], "text_pair": f"p{number}", "score": int(number % 3 == 0),
             "query": number // 3, "block": number // 6}
            for number in range(120)
        ]  # fmt: skip
    if name.startswith("questions"):
        return [
            {"context": text, "question": f"which {number}?",
             "answers": {"text": [text.split()[1]], "answer_start": [text.index(" ") + 1]}}
            for number, text in enumerate(words)
        ]  # fmt: skip
    return [
        {"text": text, "label": number % 2, "intent": f"i{number % 2}", "score": number / 3,
         "template": number // 2, "spans": [{"start": 0, "end": 2, "label": f"S{number % 2}"}]}
        for number, text in enumerate(words)
    ]  # fmt: skip


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.py")))
def test_every_recipe_reads_another_file(name, bases, chat_base, tmp_path, capsys):
    file = write_jsonl(tmp_path / "mine.jsonl", other_rows(name))
    base = chat_base if name.startswith(("chat", *WRITING)) else bases["bert"]
    options = ["--task.data.path", str(file), "--base.name-or-path", str(base), "--json"]
    options += ["--base.max-unknown-tokens", "1", "--training.num-epochs", "3"]
    command_line(["check", str(RECIPES / f"{name}.py"), *options])
    told = json.loads(capsys.readouterr().out)
    (read,) = told["ledger"]["read"]
    assert read["name"] == str(file)
    assert read["kept"] >= 40
