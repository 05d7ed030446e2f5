"""Tiny random encoder-decoders of the families that begin and end texts differently."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.tiny_translator import WORDS, save_translator

FAMILIES = ("t5", "bart", "marian", "mbart", "mbart50", "nllb")
LANGUAGES = {
    "mbart": ("en_XX", "ro_RO"), "mbart50": ("en_XX", "de_DE"), "nllb": ("eng_Latn", "deu_Latn"),
}  # fmt: skip
"""Family -> codes of the source and the target language; the others have none."""
PIECES = [*WORDS, *WORDS.values(), *(f"word{n}" for n in range(20))]


def save_writer(folder: Path, family: str) -> Path:
    """Saves a model and a tokenizer; only mBART's and NLLB's are transformers' own tokenizers."""
    import torch
    from transformers import AutoModelForSeq2SeqLM

    if family == "t5":
        return save_translator(folder)
    tokenizer = _tokenizer(family)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    model = AutoModelForSeq2SeqLM.from_config(_config(family, tokenizer))
    model.save_pretrained(folder)
    return folder


def _tokenizer(family: str) -> Any:
    from transformers import MBart50Tokenizer, MBartTokenizer, NllbTokenizer

    if family == "nllb":
        names = ["<s>", "<pad>", "</s>", "<unk>"]
        letters = [*sorted(set("".join(PIECES))), "▁"]
        vocabulary = {piece: place for place, piece in enumerate([*names, *letters])}
        return NllbTokenizer(vocab=vocabulary, merges=[], model_max_length=64)
    if family in ("mbart", "mbart50"):
        kind = MBartTokenizer if family == "mbart" else MBart50Tokenizer
        codes = [code for code in kind().get_vocab() if len(code) == 5 and code[2] == "_"]
        names = ["<s>", "<pad>", "</s>", "<unk>"]
        pieces = [*names, *(f"▁{word}" for word in PIECES), *codes, "<mask>"]
        vocabulary = [(piece, -float(place > 3)) for place, piece in enumerate(pieces)]
        return kind(vocab=vocabulary, model_max_length=64)
    return _whole_words("<s> $A </s>" if family == "bart" else "$A </s>")


def _whole_words(ends: str) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<s>", "<pad>", "</s>", "<unk>", *PIECES]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=ends, special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", eos_token="</s>",
        unk_token="<unk>", model_input_names=["input_ids", "attention_mask"], model_max_length=64,
    )  # fmt: skip


def _config(family: str, tokenizer: Any) -> Any:
    from transformers import BartConfig, M2M100Config, MarianConfig, MBartConfig

    kinds = {"bart": BartConfig, "marian": MarianConfig, "nllb": M2M100Config}
    start = {"bart": 2, "marian": 1, "nllb": 2, "mbart50": 2}.get(family)
    return kinds.get(family, MBartConfig)(
        vocab_size=len(tokenizer), d_model=32, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=64,
        decoder_ffn_dim=64, max_position_embeddings=64, pad_token_id=1, bos_token_id=0,
        eos_token_id=2, decoder_start_token_id=start, init_std=0.3, dropout=0.0,
        attention_dropout=0.0, activation_dropout=0.0, encoder_layerdrop=0.0,
        decoder_layerdrop=0.0,
    )  # fmt: skip
