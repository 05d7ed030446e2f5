"""Sets the languages of bases whose tokenizers have a token for each language: mBART, mBART-50,
M2M-100, NLLB, PLBart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from peftkit.bases.opened import OpenedBase
from peftkit.errors import RecipeError, did_you_mean, quoted

SHOWN = 6
"""Most languages that a message lists."""


@dataclass(frozen=True)
class Languages:
    """The languages of a recipe, by the base's own codes; empty if it names none."""

    source: str
    target: str


def language_ids(base: OpenedBase, languages: Languages) -> int | None:
    """Sets the languages of a base's tokenizer; returns the token of the target language, or None
    if the base has no such tokens.

    Raises:
        RecipeError: the base needs languages that the recipe does not name, does not know one of
            them, or has no use for them.
    """
    tokenizer = base.tokenizer
    given = {"source_language": languages.source, "target_language": languages.target}
    if not hasattr(tokenizer, "src_lang"):
        if named := [field for field, code in given.items() if code]:
            raise RecipeError(
                f"`task.{named[0]}` is given, but `{base.name}` has no tokens of languages",
                "leave it out",
            )
        return None
    codes = known_codes(tokenizer)
    for field, code in given.items():
        if not code:
            raise RecipeError(
                f"`{base.name}` needs the languages, and `task.{field}` is empty",
                f"give one of its codes: {quoted(codes, SHOWN)}",
            )
        if code not in codes:
            raise RecipeError(
                f"`task.{field}` is `{code}`, which `{base.name}` does not know",
                did_you_mean(code, codes) or f"it knows {quoted(codes, SHOWN)}",
            )
    tokenizer.src_lang, tokenizer.tgt_lang = languages.source, languages.target
    return int(tokenizer.convert_tokens_to_ids(_token(tokenizer, languages.target)))


def known_codes(tokenizer: Any) -> list[str]:
    """The codes of the languages that a tokenizer has tokens for."""
    if codes := getattr(tokenizer, "lang_code_to_id", None):
        return sorted(code for code in codes if _is_known(tokenizer, code))
    special = set(map(str, tokenizer.special_tokens_map.values()))
    added = (str(token) for token in tokenizer.added_tokens_decoder.values())
    return sorted(token for token in added if token[:1] != "<" and token not in special)


def _is_known(tokenizer: Any, code: str) -> bool:
    return bool(tokenizer.convert_tokens_to_ids(_token(tokenizer, code)) != tokenizer.unk_token_id)


def _token(tokenizer: Any, code: str) -> str:
    """The token of a language, which M2M-100 writes otherwise than its code."""
    return str(getattr(tokenizer, "lang_code_to_token", {}).get(code, code))
