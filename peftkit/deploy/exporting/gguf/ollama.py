"""Writes and checks the Modelfile for `ollama create NAME -f Modelfile`.

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
MAX_CONTEXT = 8192
"""Largest `num_ctx` to write, in tokens, since Ollama reserves memory for the whole context."""
PLAIN = "{{ .Prompt }}"
"""Template for models that continue a text."""
PARAMETERS = {
    "max_new_tokens": "num_predict", "temperature": "temperature", "top_k": "top_k",
    "top_p": "top_p", "repetition_penalty": "repeat_penalty",
}  # fmt: skip
"""Setting of transformers' `generate` -> Ollama's name of the setting."""


@dataclass(frozen=True)
class Settings:
    """The content of a Modelfile except the paths of the weights."""

    template: str
    """Chat template, in Go's template language."""
    stops: tuple[str, ...]
    """Texts at which an answer ends."""
    system: str
    """System message that Ollama adds if a conversation has no system message; may be empty."""
    parameters: dict[str, float]


def settings_of(
    tokenizer: Any,
    generation: Mapping[str, object],
    stops: Sequence[int],
    system: str,
    adds_bos: bool,
    plain: bool,
) -> Settings:
    """The settings that make Ollama answer as the trained model does.

    Args:
        tokenizer: the training's tokenizer, with its chat template.
        generation: generation settings, by transformers' names.
        stops: ids of the tokens that end an answer.
        system: the recipe's system prompt.
        adds_bos: whether llama.cpp puts the beginning-of-text token before a prompt by itself.
        plain: whether the model continues a text and uses no template.

    Raises:
        AdapterError: the template is missing, or a Modelfile cannot hold the template or the
            system prompt.
    """

    def render(messages: Sequence[Message]) -> str:
        text: str = tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True
        )
        return text.removeprefix(tokenizer.bos_token or "") if adds_bos else text

    if not plain and not tokenizer.chat_template:
        raise AdapterError(
            "neither the base nor the training has a chat template", "use `--to gguf`"
        )
    if '"""' in system:
        raise AdapterError("a Modelfile's system message cannot contain three quotes")
    parameters = {
        name: float(value)
        for option, name in PARAMETERS.items()
        if isinstance(value := generation.get(option), int | float)
    }
    if not generation.get("do_sample"):
        parameters |= {"temperature": 0.0}
    parameters.setdefault("repeat_penalty", 1.0)  # Ollama's default is 1.1
    parameters["num_ctx"] = float(min(tokenizer.model_max_length, MAX_CONTEXT))
    return Settings(
        PLAIN if plain else go_template(render),
        tuple(tokenizer.convert_ids_to_tokens(list(stops))),
        system,
        parameters,
    )


def modelfile(settings: Settings, base: str, adapter: str = "") -> str:
    """The text of a Modelfile.

    Args:
        base: path of a GGUF model, absolute or relative to the Modelfile.
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
    """Reads a Modelfile as Ollama does and compares it with the training's settings.

    Raises:
        AdapterError: the Modelfile names files that do not exist, or its settings differ.
    """
    commands = read_modelfile(file.read_text(encoding="utf-8"))
    wrong = []
    for command in ("FROM", "ADAPTER"):
        for name in commands.get(command, []):
            if not (file.parent / name).is_file():
                wrong.append(f"{command} names `{name}`, which does not exist")
    template = "".join(commands.get("TEMPLATE", []))
    if template != settings.template:
        wrong.append("TEMPLATE is read back differently")
    if commands.get("SYSTEM", [""]) != [settings.system]:
        wrong.append("SYSTEM is read back differently")
    written = commands.get("PARAMETER", [])
    if missing := [text for text in settings.stops if f'stop "{text}"' not in written]:
        wrong.append(f"answers would not stop at {quoted(missing)}")
    if settings.template != PLAIN:
        messages: list[Message] = [{"role": "user", "content": "What is it?"}]
        if settings.system:
            messages = [{"role": "system", "content": settings.system}, *messages]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        if adds_bos:
            text = text.removeprefix(tokenizer.bos_token or "")
        if expand(template, messages) != text:
            wrong.append("TEMPLATE writes a prompt that differs from the training's")
    if wrong:
        raise AdapterError(f"the Modelfile does not fit the adapter: {'; '.join(wrong)}")


def read_modelfile(text: str) -> dict[str, list[str]]:
    """Each command's values in a Modelfile, in order. Triple-quoted values keep line breaks."""
    commands: dict[str, list[str]] = {}
    pattern = r'^([A-Z]+) +(?:"""(.*?)"""|([^\n]*))$'
    for match in re.finditer(pattern, text, re.DOTALL | re.MULTILINE):
        value = match[2] if match[2] is not None else match[3]
        commands.setdefault(match[1], []).append(value)
    return commands
