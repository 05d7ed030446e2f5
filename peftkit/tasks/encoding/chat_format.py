"""Turns messages into tokens with a chat template, and proves which tokens are the answers.

    prompt = template(messages before an answer) with the generation prompt
    whole  = template(all messages) = prompt + white space + answer + end of turn + ...

The tokens of `whole` must begin with the tokens of each answer's `prompt`: then training reads
exactly what the trained model will be given, and the answer's tokens are known. The assistant's
thought before an answer is learned too, if the template writes it. A template that changes earlier
turns when later ones follow, or renders no prompt for an answer, is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from peftkit.bases.chat_templates import NAMES, chat_template
from peftkit.errors import first_line
from peftkit.tasks.reading.messages import is_learned
from peftkit.tasks.reading.single_message import THOUGHTS, Message

PROBE: list[Message] = [
    {"role": "user", "content": "What is it?"},
    {"role": "assistant", "content": "A lamp."},
]


class NotRendered(Exception):
    """Raised if a template cannot be used for a conversation; the message says why."""


@dataclass(frozen=True)
class Tokens:
    """A conversation as token ids."""

    input_ids: list[int]
    supervised: list[bool]
    """For each token, whether it belongs to an answer or ends one."""


@dataclass(frozen=True)
class ChatFormat:
    """A tokenizer and the template that renders its conversations."""

    tokenizer: Any
    end_ids: frozenset[int]
    """Tokens that end an answer."""
    template: str | None = None
    """The chat template as Jinja text; None for the tokenizer's own."""

    @staticmethod
    def of(tokenizer: Any, template: str | None = None) -> ChatFormat:
        """Makes the format of a tokenizer, and tests it on one question and answer.

        Raises:
            NotRendered: there is no template or no fast tokenizer, or the test fails.
        """
        if template is None and not tokenizer.chat_template:
            raise NotRendered("there is none")
        if not tokenizer.is_fast:
            raise NotRendered("the tokenizer is a slow one; it does not report where tokens begin")
        any_end = frozenset(set(tokenizer.added_tokens_decoder) - {tokenizer.unk_token_id})
        probe = ChatFormat(tokenizer, any_end, template).encode(PROBE)
        last = max(index for index, learned in enumerate(probe.supervised) if learned)
        return ChatFormat(tokenizer, frozenset({probe.input_ids[last]}), template)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The token ids of the messages and of the generation prompt after them."""
        ids: list[int] = self._tokens(self._render(messages, prompt=True))["input_ids"]
        return ids

    def encode(self, messages: Sequence[Message]) -> Tokens:
        """Encodes a conversation and marks its supervised tokens.

        Raises:
            NotRendered: the template refuses the conversation, or an answer cannot be located.
        """
        whole = self._render(messages)
        tokens = self._tokens(whole)
        ids, offsets = tokens["input_ids"], tokens["offset_mapping"]
        bos = self.tokenizer.bos_token_id
        if len(ids) > 1 and ids[0] == ids[1] == bos:
            raise NotRendered(f"it begins a text with `{self.tokenizer.bos_token}` twice")
        supervised = [False] * len(ids)
        for turn, message in enumerate(messages):
            if is_learned(message):
                prompt = self._render(messages[:turn], prompt=True)
                thought = message.get("thought", "") if self.thought_key else ""
                end = _end_of_answer(whole, prompt, message["content"], thought)
                if end is None:
                    alone = self._render(messages[: turn + 1])
                    raise NotRendered(_why_not(alone, prompt, message["content"], thought))
                first = self._first_token(ids, prompt)
                last = self._end(ids, offsets, whole, first, end)
                supervised[first : last + 1] = [True] * (last + 1 - first)
        return Tokens(ids, supervised)

    def _first_token(self, ids: list[int], prompt: str) -> int:
        prompt_ids = self._tokens(prompt)["input_ids"]
        if ids[: len(prompt_ids)] != prompt_ids:
            raise NotRendered("its prompt for an answer ends inside a token of the answer")
        return len(prompt_ids)

    def _end(
        self, ids: list[int], offsets: Sequence[tuple[int, int]], whole: str, first: int, end: int
    ) -> int:
        """Index of the token that ends an answer.

        Args:
            first: index of the answer's first token.
            end: index in `whole` of the character after the answer's text.
        """
        for index in range(first, len(ids)):
            if offsets[index][0] >= end and ids[index] in self.end_ids:
                if whole[end : offsets[index][0]].strip():
                    break
                return index
        raise NotRendered("it ends an answer without an end token, so no end would be learned")

    @property
    def thought_key(self) -> str:
        """The message key of thoughts that the template writes; empty if it writes none."""
        template = str(self.template or self.tokenizer.chat_template)
        return next((key for key in THOUGHTS if re.search(rf"\b{key}\b", template)), "")

    def _render(self, messages: Sequence[Message], prompt: bool = False) -> str:
        key = self.thought_key
        turns = [
            {
                **{name: message[name] for name in ("role", "content")},
                **({key: message["thought"]} if key and "thought" in message else {}),
            }
            for message in messages
        ]
        try:
            text: str = self.tokenizer.apply_chat_template(
                turns,
                chat_template=self.template,
                tokenize=False,
                add_generation_prompt=prompt,
            )
        except Exception as error:  # a template is a program and may raise anything
            raise NotRendered(f"it refuses the conversation: {first_line(error)}") from error
        return text

    def _tokens(self, text: str) -> Any:
        """Token ids and offsets of a rendered text; adds no special tokens, as the template wrote
        them.
        """
        return self.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )


def _end_of_answer(text: str, prompt: str, content: str, thought: str = "") -> int | None:
    """Index of the character after an answer in a text; None if the text does not contain the
    prompt, the thought and the answer unchanged and in this order.
    """
    if not text.startswith(prompt):
        return None
    rest = text[len(prompt) :]
    if thought:
        start = rest.find(thought)
        place = rest.find(content, start + len(thought))
        return None if start < 0 or place < 0 else len(prompt) + place + len(content)
    place = len(rest) - len(rest.lstrip()) if content else 0
    return len(prompt) + place + len(content) if rest.startswith(content, place) else None


def _why_not(alone: str, prompt: str, content: str, thought: str) -> str:
    """Says why an answer cannot be located in the rendered conversation.

    Args:
        alone: the conversation up to and including the answer, as the template renders it.
    """
    if not content:
        return "it leaves out empty answers"
    if _end_of_answer(alone, prompt, content, thought) is not None:
        return "it rewrites earlier turns when others follow"
    if not alone.startswith(prompt):
        return "its prompt for an answer differs from what it writes before one"
    if thought and thought not in alone:
        return "it leaves out the assistant's thought before an answer"
    before, separator, _ = alone.removeprefix(prompt).partition(content)
    if separator:
        return f"it writes `{before.strip()}` before an answer, but not in the prompt for one"
    return "it changes the text of an answer"


def template_for(tokenizer: Any, messages: Sequence[Message]) -> str:
    """Name of the first packaged template that renders these messages with this tokenizer; empty if
    none does.
    """
    for name in NAMES:
        try:
            ChatFormat.of(tokenizer, chat_template(name)).encode(messages)
        except NotRendered:
            continue
        return name
    return ""
