"""Ten published chat formats: templates of our own writing that render them, on small tokenizers
trained here, one like GPT's (bytes) and one like SentencePiece's (words that begin with ▁).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

CORPUS = [
    "user assistant system model What is it? A lamp. Where is my parcel, please? It is here.",
    "你好，我的订单在哪里？您的包裹今天到。 Grüße, ça va? lamp lamps light the a of and to in it",
]
LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Llama 3 and Qwen cut a text into words."""

CHATML = """\
{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

QWEN2 = (
    """\
{% if messages[0].role != 'system' %}<|im_start|>system
You are a helpful assistant<|im_end|>
{% endif %}"""
    + CHATML
)

QWEN3 = """\
{% set ns = namespace(last=0) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}
{%- endfor %}
{%- for m in messages %}<|im_start|>{{ m.role }}
{% if m.role == 'assistant' and '</think>' in m.content and loop.index0 < ns.last -%}
{{ m.content.split('</think>')[-1].lstrip('\\n') }}
{%- else %}{{ m.content }}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

LLAMA2 = """\
{% set ns = namespace(system='') %}
{%- for m in messages %}
{%- if m.role == 'system' %}{% set ns.system = '<<SYS>>\\n' + m.content + '\\n<</SYS>>\\n\\n' %}
{%- elif m.role == 'user' %}{{ bos_token + '[INST] ' + ns.system + m.content + ' [/INST]' }}
{%- set ns.system = '' %}
{%- else %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}
{%- endfor %}"""

LLAMA3 = """\
{{ bos_token }}
{%- for m in messages %}
{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' }}
{{- (m.content | trim) + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""

MISTRAL = """\
{{ bos_token }}{% set ns = namespace(system='', expected='user') %}
{%- for m in messages %}
{%- if m.role == 'system' %}{% set ns.system = m.content + '\\n\\n' %}
{%- else %}
{%- if m.role != ns.expected %}{{ raise_exception('roles must alternate') }}{% endif %}
{%- set ns.expected = 'assistant' if m.role == 'user' else 'user' %}
{%- if m.role == 'user' %}{{ '[INST] ' + ns.system + m.content + ' [/INST]' }}
{%- set ns.system = '' %}
{%- else %}{{ ' ' + m.content + eos_token }}{% endif %}
{%- endif %}
{%- endfor %}"""

GEMMA = """\
{{ bos_token }}
{%- for m in messages %}
{%- if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{{- '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) }}
{{ (m.content | trim) + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""

PHI3 = """\
{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content + '<|end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"""

ZEPHYR = """\
{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content + eos_token + '\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"""

DEEPSEEK = """\
{{ bos_token }}
{%- for m in messages %}
{%- if m.role == 'system' %}{{ m.content }}
{%- elif m.role == 'user' %}{{ '<｜User｜>' + m.content }}
{%- else %}{{ '<｜Assistant｜>' + m.content + eos_token }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}"""


@dataclass(frozen=True)
class Format:
    name: str
    template: str
    make: Callable[..., Any]
    special: tuple[str, ...]
    answer: Callable[[str], str]
    """An assistant's text -> what the supervised tokens decode to."""
    bos: str = ""
    eos: str = "</s>"
    takes_system: bool = True

    @cache  # noqa: B019  # ten of them, for the whole session
    def tokenizer(self) -> Any:
        tokenizer = self.make(self.special, self.bos, self.eos)
        tokenizer.chat_template = self.template
        return tokenizer


def bytes_tokenizer(special: tuple[str, ...], bos: str, eos: str, words: str = "") -> Any:
    """Byte-level BPE, as in GPT-2, Qwen, Llama 3, SmolLM2."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not words)
    tokenizer.pre_tokenizer = level
    if words:
        cut = pre_tokenizers.Split(Regex(words), behavior="isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return wrapped(tokenizer, special, bos, eos)


def llama3_tokenizer(special: tuple[str, ...], bos: str, eos: str) -> Any:
    return bytes_tokenizer(special, bos, eos, LLAMA3_WORDS)


def pieces_tokenizer(special: tuple[str, ...], bos: str, eos: str) -> Any:
    """BPE over text in which ▁ stands for a space, unknown characters as bytes, as in Llama 2."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<unk>", *fallback], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    plain = json.loads(tokenizer.to_str())
    plain["added_tokens"] = plain["added_tokens"][:1]  # bytes are tokens like others
    return wrapped(Tokenizer.from_str(json.dumps(plain)), special, bos, eos)


def wrapped(tokenizer: Any, special: tuple[str, ...], bos: str, eos: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    names = {"eos_token": eos} | ({"bos_token": bos} if bos else {})
    more = [token for token in special if token not in (bos, eos)]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, additional_special_tokens=more, **names
    )


IM = ("<|im_start|>", "<|im_end|>")
FORMATS = (
    Format("ChatML", CHATML, bytes_tokenizer, IM, lambda a: f"{a}<|im_end|>", eos="<|im_end|>"),
    Format("Llama-2", LLAMA2, pieces_tokenizer, (), lambda a: f" {a} </s>", bos="<s>"),
    Format(
        "Llama-3", LLAMA3, llama3_tokenizer,
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        lambda a: f"{a}<|eot_id|>", bos="<|begin_of_text|>", eos="<|end_of_text|>",
    ),
    Format(
        "Mistral", MISTRAL, pieces_tokenizer, ("[INST]", "[/INST]"),
        lambda a: f" {a}</s>", bos="<s>",
    ),
    Format(
        "Gemma", GEMMA, pieces_tokenizer, ("<start_of_turn>", "<end_of_turn>"),
        lambda a: f"{a}<end_of_turn>", bos="<bos>", eos="<eos>", takes_system=False,
    ),
    Format("Qwen2", QWEN2, llama3_tokenizer, IM, lambda a: f"{a}<|im_end|>", eos="<|endoftext|>"),
    Format("Qwen3", QWEN3, llama3_tokenizer, IM, lambda a: f"{a}<|im_end|>", eos="<|endoftext|>"),
    Format(
        "Phi", PHI3, bytes_tokenizer, ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
        lambda a: f"{a}<|end|>", eos="<|endoftext|>",
    ),
    Format("Zephyr", ZEPHYR, pieces_tokenizer, (), lambda a: f"{a}</s>", bos="<s>"),
    Format(
        "DeepSeek", DEEPSEEK, llama3_tokenizer, ("<｜User｜>", "<｜Assistant｜>"),
        lambda a: f"{a}<｜end▁of▁sentence｜>",
        bos="<｜begin▁of▁sentence｜>", eos="<｜end▁of▁sentence｜>",
    ),
)  # fmt: skip
BY_NAME = {form.name: form for form in FORMATS}
