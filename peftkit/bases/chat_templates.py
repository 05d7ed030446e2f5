"""Chat templates by name, for bases without a template.

A template is Jinja text that renders messages as transformers' `apply_chat_template` does.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Final

from peftkit.errors import BaseModelError, did_you_mean, not_found, quoted

NAMES: Final = ("chatml", "plain")
"""Names of peftkit's templates. `chatml` needs `<|im_start|>` and `<|im_end|>` in the vocabulary.
`plain` fits any base: it writes `User:` and `Assistant:`, and ends answers with the tokenizer's end
of text."""


def chat_template(name: str) -> str:
    """The text of a named template, or of a .jinja file.

    Raises:
        BaseModelError: there is no such template or file, or it is not valid Jinja.
    """
    if name in NAMES:
        file = resources.files("peftkit.bases").joinpath(f"templates/{name}.jinja")
        return file.read_text(encoding="utf-8")
    import jinja2

    path = Path(name).expanduser()
    if path.suffix not in (".jinja", ".jinja2", ".j2"):
        raise BaseModelError(
            f"`base.chat_template` is `{name}`, neither one of {quoted(NAMES)} nor a .jinja file",
            did_you_mean(name, NAMES),
        )
    if not path.is_file():
        raise BaseModelError(f"`base.chat_template`: no file `{name}`", not_found(path))
    try:
        template = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BaseModelError(
            f"`base.chat_template`: `{name}` is not UTF-8 text", "save it as UTF-8"
        ) from error
    try:
        jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(template)
    except jinja2.TemplateSyntaxError as error:
        raise BaseModelError(
            f"`base.chat_template`: `{name}`, line {error.lineno}: {error.message}",
            "correct it; it must be Jinja, like transformers' chat templates",
        ) from error
    if not template.strip():
        raise BaseModelError(f"`base.chat_template`: `{name}` is empty", "write a template")
    return template


def template_label(template: str | None) -> str:
    """Phrase for messages, such as `the chat template `plain``; empty unless `template` is a
    template of peftkit.
    """
    return next((f"the chat template `{n}`" for n in NAMES if chat_template(n) == template), "")
