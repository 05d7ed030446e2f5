"""A folder for `ollama create NAME -f Modelfile`.

https://docs.ollama.com/modelfile
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftkit.deploy.exporting.gguf.go_template import expand, go_template
from peftkit.errors import AdapterError, quoted
from peftkit.tasks.reading.single_message import Message

MODELFILE = "Modelfile"
LONGEST = 8192
"""Tokens that `num_ctx` is set to at most; Ollama reserves memory for all of them."""
PLAIN = "{{ .Prompt }}"
"""The template of models that go on with a text."""
PARAMETERS = {
    "max_new_tokens": "num_predict", "temperature": "temperature", "top_k": "top_k",
    "top_p": "top_p", "repetition_penalty": "repeat_penalty",
}  # fmt: skip
"""Settings of transformers' `generate` -> Ollama's."""


@dataclass(frozen=True)
class Settings:
    """What a Modelfile says beside where the weights are."""

    template: str
    """In Go's language."""
    stops: tuple[str, ...]
    """Texts at which an answer ends."""
    system: str
    """Of conversations that have none; empty for none."""
    parameters: dict[str, float]


def settings_of(
    tokenizer: Any,
    generation: Mapping[str, object],
    stops: Sequence[int],
    system: str,
    adds_bos: bool,
    plain: bool,
) -> Settings:
    """What Ollama has to do to answer as the trained model does.

    Args:
        tokenizer: with the chat template of the training.
        generation: how the model writes, by transformers' names.
        stops: ids of the tokens that end an answer.
        system: of the recipe.
        adds_bos: whether llama.cpp puts the beginning-of-text token before a prompt by itself.
        plain: whether the model goes on with a text and has no template.

    Raises:
        AdapterError: the template cannot be written in Go's language, or there is none.
    """

    def render(messages: Sequence[Message]) -> str:
        text: str = tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True
        )
        return text.removeprefix(tokenizer.bos_token or "") if adds_bos else text

    if not plain and not tokenizer.chat_template:
        raise AdapterError(
            "the base has no chat template, and none was trained with", "use `--to gguf`"
        )
    if '"""' in system:
        raise AdapterError("the recipe's system message holds three quotes")
    parameters = {
        name: float(value)
        for option, name in PARAMETERS.items()
        if isinstance(value := generation.get(option), int | float)
    }
    if not generation.get("do_sample"):
        parameters |= {"temperature": 0.0}
    parameters.setdefault("repeat_penalty", 1.0)  # Ollama's own is 1.1
    parameters["num_ctx"] = float(min(tokenizer.model_max_length, LONGEST))
    return Settings(
        PLAIN if plain else go_template(render),
        tuple(tokenizer.convert_ids_to_tokens(list(stops))),
        system,
        parameters,
    )


def modelfile(settings: Settings, base: str, adapter: str = "") -> str:
    """The text of a Modelfile.

    Args:
        base: path of a GGUF model, absolute or from the Modelfile.
        adapter: path of a GGUF LoRA; empty for none.
    """
    lines = [f"FROM {base}"]
    lines += [f"ADAPTER {adapter}"] if adapter else []
    lines.append(f'TEMPLATE """{settings.template}"""')
    if settings.system:
        lines.append(f'SYSTEM """{settings.system}"""')
    lines += [f'PARAMETER stop "{text}"' for text in settings.stops]
    lines += [f"PARAMETER {name} {value:g}" for name, value in settings.parameters.items()]
    return "\n".join(lines) + "\n"


def check_modelfile(file: Path, settings: Settings, tokenizer: Any, adds_bos: bool) -> None:
    """Reads a Modelfile as Ollama does, and compares it with the training.

    Raises:
        AdapterError: weights that it names are missing, or it says something else.
    """
    found = read_modelfile(file.read_text(encoding="utf-8"))
    wrong = []
    for command in ("FROM", "ADAPTER"):
        for name in found.get(command, []):
            if not (file.parent / name).is_file():
                wrong.append(f"{command} names `{name}`, which is no file")
    template = "".join(found.get("TEMPLATE", []))
    if template != settings.template:
        wrong.append("TEMPLATE is read otherwise than it was meant")
    if found.get("SYSTEM", [""]) != [settings.system]:
        wrong.append("SYSTEM is read otherwise than it was meant")
    said = found.get("PARAMETER", [])
    if missing := [text for text in settings.stops if f'stop "{text}"' not in said]:
        wrong.append(f"answers would not stop at {quoted(missing)}")
    if settings.template != PLAIN:
        asked: list[Message] = [{"role": "user", "content": "What is it?"}]
        if settings.system:
            asked = [{"role": "system", "content": settings.system}, *asked]
        text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        if adds_bos:
            text = text.removeprefix(tokenizer.bos_token or "")
        if expand(template, asked) != text:
            wrong.append("TEMPLATE writes another prompt than the training's")
    if wrong:
        raise AdapterError(f"the Modelfile is not the adapter's: {'; '.join(wrong)}")


def read_modelfile(text: str) -> dict[str, list[str]]:
    """Command -> its values, in order; three quotes keep line breaks."""
    found: dict[str, list[str]] = {}
    pattern = r'^([A-Z]+) +(?:"""(.*?)"""|([^\n]*))$'
    for match in re.finditer(pattern, text, re.DOTALL | re.MULTILINE):
        value = match[2] if match[2] is not None else match[3]
        found.setdefault(match[1], []).append(value)
    return found
