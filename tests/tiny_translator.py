"""A tiny encoder-decoder, and pairs that it can learn."""

from __future__ import annotations

import random
from pathlib import Path

WORDS = {"bright": "dark", "warm": "cold", "happy": "angry", "the": "a", "film": "story"}


def save_translator(folder: Path) -> Path:
    """A random T5 whose tokenizer ends each text with `</s>`."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    words = ["<pad>", "</s>", "<unk>", *WORDS, *WORDS.values(), *(f"word{n}" for n in range(20))]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        model_input_names=["input_ids", "attention_mask"], model_max_length=64,
    ).save_pretrained(folder)  # fmt: skip
    config = T5Config(
        vocab_size=len(words), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4,
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


def pairs(count: int) -> list[dict[str, str]]:
    """Word by word translations."""
    rng = random.Random(0)
    rows = []
    for number in range(count):
        words = rng.choices(list(WORDS), k=rng.randint(2, 6))
        source = " ".join([*words, f"word{number % 20}"])
        rows.append({"source": source, "target": " ".join(WORDS[word] for word in words)})
    return rows
