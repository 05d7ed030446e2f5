"""The command `peftkit completion`: prints a shell script that completes commands and options.

The script contains all names, so it completes them without starting Python.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from peftkit.cli.arguments import Arguments
from peftkit.cli.commands import SHELLS, TAKE_FIELDS, Commands
from peftkit.cli.groups import SUMMARIES
from peftkit.parts.part import OpenPart, Part
from peftkit.recipe import Recipe


def script_for(shell: str, parser: Commands) -> str:
    """Returns the completion script for a shell in `SHELLS`."""
    options = {name: _options(name, part) for name, part in parser.named.items()}
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](options)


def _options(name: str, parser: Arguments) -> list[str]:
    fields = _fields(Recipe) if name in TAKE_FIELDS else ()
    return [*parser.options, "--help", *dict.fromkeys(fields)]


def _fields(model: type[Part], prefix: str = "--") -> Iterator[str]:
    """Yields the options for a part's fields, including the fields of every kind of nested part."""
    for field, info in model.model_fields.items():
        name = prefix + field.replace("_", "-")
        kinds = [
            kind
            for kind in (info.annotation, *get_args(info.annotation))
            if isinstance(kind, type) and issubclass(kind, Part)
        ]
        for kind in kinds:
            family = kind.kinds.values() if issubclass(kind, OpenPart) else (kind,)
            for member in family:
                yield from _fields(member, f"{name}.")
        if not kinds:
            yield name


def _bash(options: dict[str, list[str]]) -> str:
    cases = "\n".join(
        f'    {name}) words="{" ".join(words)}" ;;' for name, words in options.items()
    )
    return f"""\
# bash completion of peftkit; in ~/.bashrc: eval "$(peftkit completion bash)"
_peftkit() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" words=""
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "{" ".join(options)} --help --version" -- "$word"))
    return
  fi
  case "${{COMP_WORDS[1]}}" in
{cases}
  esac
  case "$word" in
    -*) COMPREPLY=($(compgen -W "$words" -- "$word")) ;;
    *) if [ "${{COMP_WORDS[1]}}" = completion ]; then
         COMPREPLY=($(compgen -W "{" ".join(SHELLS)}" -- "$word"))
       fi ;;
  esac
}}
complete -o bashdefault -o default -F _peftkit peftkit
"""


def _zsh(options: dict[str, list[str]]) -> str:
    commands = "\n".join(f"    '{name}:{_plain(SUMMARIES[name])}'" for name in options)
    cases = "\n".join(
        f"    {name}) words_of=({' '.join(words)}) ;;" for name, words in options.items()
    )
    return f"""\
#compdef peftkit
# zsh completion of peftkit; in ~/.zshrc, after compinit: eval "$(peftkit completion zsh)"
_peftkit() {{
  local -a commands words_of
  commands=(
{commands}
  )
  if (( CURRENT == 2 )); then
    _describe command commands
    return
  fi
  case "$words[2]" in
{cases}
  esac
  if [[ "$words[CURRENT]" == -* ]]; then
    compadd -- $words_of
  elif [[ "$words[2]" == completion ]]; then
    compadd -- {" ".join(SHELLS)}
  else
    _files
  fi
}}
compdef _peftkit peftkit
"""


def _fish(options: dict[str, list[str]]) -> str:
    lines = [
        "# fish completion of peftkit; in ~/.config/fish/config.fish: "
        "peftkit completion fish | source",
        "complete -c peftkit -n __fish_use_subcommand -f",
    ]
    for name, words in options.items():
        text = _plain(SUMMARIES[name])
        lines.append(f"complete -c peftkit -n __fish_use_subcommand -f -a {name} -d '{text}'")
        seen = f"__fish_seen_subcommand_from {name}"
        lines += [
            f"complete -c peftkit -n '{seen}' -l {option.removeprefix('--')}" for option in words
        ]
    shells = f"-f -a '{' '.join(SHELLS)}'"
    lines.append(f"complete -c peftkit -n '__fish_seen_subcommand_from completion' {shells}")
    return "\n".join([*lines, ""])


def _plain(text: str) -> str:
    """Removes from a text the quotes and colons, which are special in a shell script."""
    return text.replace("'", "").replace(":", " -")
