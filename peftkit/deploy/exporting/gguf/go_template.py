"""Derives a chat template in Ollama's language from the training's Jinja template.

    {{ if not .System }}DEFAULT{{ end }}{{ range .Messages }}{{ if eq .Role "system" }}BEFORE
    {{ .Content }}AFTER{{ else if eq .Role "user" }}...{{ end }}{{ end }}PROMPT

The texts around each role's messages are cut out of conversations that the Jinja template renders.
Then both templates must render other conversations identically. A Jinja template is refused if it
puts the system message into a user message, or if a turn's text depends on the turn's position.
`expand` implements the part of Go's text/template that is used above:
https://pkg.go.dev/text/template
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from peftkit.errors import AdapterError
from peftkit.tasks.reading.single_message import Message

Render = Callable[[Sequence[Message]], str]
"""Renders messages and the prompt for an answer; raises whatever the template raises."""

MARKS = {"system": "Sys.Mark", "user": "Ask{}.Mark", "assistant": "Say{}.Mark"}
TRIALS = ("u", "su", "uau", "suau", "uauau", "suauau")
"""Conversations on which both templates are compared. A letter is one message's role: system, user,
assistant."""
TEXTS = (
    "Where is it?\nTell me: {{ 1 }}",
    '你好， "It\'s" <b>here</b>',
    "A\n\n- list\n- of two",
    "x",
)


@dataclass(frozen=True)
class Turn:
    """The texts that a template writes before and after a message of one role."""

    before: str
    after: str


@dataclass(frozen=True)
class Turns:
    """All texts that a template writes around messages."""

    turns: dict[str, Turn]
    """Role -> texts around its messages; no `system` if the template refuses system messages."""
    default: str
    """Text at the beginning of a conversation that has no system message."""
    prompt: str
    """Text at the end of a conversation that prompts for the answer."""


def go_template(render: Render) -> str:
    """The Go template that renders conversations as a Jinja template does.

    Args:
        render: renders the Jinja template without the token that llama.cpp itself puts first.

    Raises:
        AdapterError: no Go template that renders conversations identically was found.
    """
    turns = _derive(render)
    texts = [turns.default, turns.prompt]
    texts += [text for turn in turns.turns.values() for text in (turn.before, turn.after)]
    if any(mark in text for text in texts for mark in ("{{", "}}", '"""')):
        raise _refused("it writes `{{`, `}}` or three quotes")
    template = _write(turns)
    for number, roles in enumerate(TRIALS):
        if "s" in roles and "system" not in turns.turns:
            continue
        messages = _conversation(roles, number)
        if expand(template, messages) != _rendered(render, messages):
            raise _refused("the text around a message depends on more than the message's role")
    return template


def _refused(why: str) -> AdapterError:
    return AdapterError(
        f"the chat template of the training cannot be written for Ollama: {why}",
        "use `--to gguf`, which keeps the Jinja template for llama.cpp",
    )


def _conversation(roles: str, number: int) -> list[Message]:
    names = {"s": "system", "u": "user", "a": "assistant"}
    return [
        {"role": names[role], "content": TEXTS[(number + place) % len(TEXTS)]}
        for place, role in enumerate(roles)
    ]


def _rendered(render: Render, messages: Sequence[Message]) -> str:
    try:
        return render(messages)
    except Exception as error:  # a template is a program and may raise anything
        raise _refused(f"it refuses a conversation: {error}") from error


def _derive(render: Render) -> Turns:
    """Derives the texts around messages by cutting rendered conversations at the messages."""
    talk = _marked("uau")
    default_user, user_answer, answer_user, end = _cut(_rendered(render, talk), talk)
    try:
        with_system = render(_marked("su"))
    except Exception:  # a template without system messages, such as Gemma's
        before_user = _common_end(default_user, answer_user)
        between, system = "", None
    else:
        first, between, _ = _cut(with_system, _marked("su"))
        before_user = _common_end(default_user, answer_user, between)
        system = Turn(first, between.removesuffix(before_user))
    turn_end = user_answer[: user_answer.rfind("<")]
    if turn_end and before_user.startswith(turn_end):  # the default message ends as a turn
        before_user = before_user.removeprefix(turn_end)
        system = system and Turn(system.before, between.removesuffix(before_user))
    after_user = _common_start(user_answer, end)
    before_answer, prompt = user_answer[len(after_user) :], end[len(after_user) :]
    turns = {
        "user": Turn(before_user, after_user),
        "assistant": Turn(before_answer, answer_user.removesuffix(before_user)),
    }
    if system:
        turns = {"system": system, **turns}
    return _with_prompt(Turns(turns, default_user.removesuffix(before_user), prompt))


def _with_prompt(turns: Turns) -> Turns:
    """Splits the prompt for an answer off the end of the user's turn, if the turns of user and
    assistant begin with the same text, such as `<|im_start|>`.
    """
    user, answer = turns.turns["user"], turns.turns["assistant"]
    start = _common_start(user.before, user.after[user.after.rfind(user.before[:3]) :])
    place = user.after.rfind(start) if len(start) > 2 else -1
    if turns.prompt or answer.before or place <= 0:
        return turns
    prompt = user.after[place:]
    moved = {"user": Turn(user.before, user.after[:place]), "assistant": Turn(prompt, answer.after)}
    return Turns({**turns.turns, **moved}, turns.default, prompt)


def _marked(roles: str) -> list[Message]:
    names = {"s": "system", "u": "user", "a": "assistant"}
    return [
        {"role": names[role], "content": MARKS[names[role]].format(place)}
        for place, role in enumerate(roles)
    ]


def _cut(text: str, messages: Sequence[Message]) -> list[str]:
    """The rendered texts before, between and after the messages."""
    parts = []
    for message in messages:
        if text.count(message["content"]) != 1:
            raise _refused("it does not write every message exactly once")
        before, _, text = text.partition(message["content"])
        parts.append(before)
    return [*parts, text]


def _common_end(*texts: str) -> str:
    return _common_start(*(text[::-1] for text in texts))[::-1]


def _common_start(*texts: str) -> str:
    same = takewhile(lambda letters: len(set(letters)) == 1, zip(*texts, strict=False))
    return "".join(letters[0] for letters in same)


def _write(turns: Turns) -> str:
    default = f"{{{{ if not .System }}}}{turns.default}{{{{ end }}}}" if turns.default else ""
    cases = [
        f'{{{{ {"else " if number else ""}if eq .Role "{role}" }}}}'
        f"{turn.before}{{{{ .Content }}}}{turn.after}"
        for number, (role, turn) in enumerate(turns.turns.items())
    ]
    body = "".join(cases) + "{{ end }}"
    return f"{default}{{{{ range .Messages }}}}{body}{{{{ end }}}}{turns.prompt}"


def expand(template: str, messages: Sequence[Message]) -> str:
    """Renders a template made by `go_template` as Ollama does.

    Raises:
        ValueError: the template uses more of Go's language than `expand` implements.
    """
    system = "\n\n".join(m["content"] for m in messages if m["role"] == "system")
    pieces = re.split(r"(\{\{.*?\}\})", template, flags=re.DOTALL)
    steps = iter([piece for piece in pieces if piece])
    body, last = _parse(steps)
    if last:
        raise ValueError(f"`{last}` has nothing to close")
    return "".join(_run(body, {"System": system, "Messages": messages}))


Node = tuple[str, list[tuple[str, list["Node"]]]]
"""A text or an action, and the branches of an `if` or `range`: (condition, nodes inside)."""


def _parse(steps: Iterator[str]) -> tuple[list[Node], str]:
    """Returns the nodes before the next unmatched `end` or `else`, and the text of this action.

    The text is empty if the template ends first.
    """
    nodes: list[Node] = []
    for step in steps:
        action = step[2:-2].strip() if step.startswith("{{") else ""
        if not action:
            nodes.append((f"text {step}", []))
        elif action == "end" or action.startswith("else"):
            return nodes, action
        elif action.startswith(("if ", "range ")):
            branches, condition = [], action
            while condition != "end":
                body, closing = _parse(steps)
                branches.append((condition.removeprefix("else "), body))
                condition = closing or "end"
            nodes.append((action.split()[0], branches))
        else:
            nodes.append((action, []))
    return nodes, ""


def _run(nodes: Sequence[Node], dot: Any) -> Iterator[str]:
    for action, branches in nodes:
        if action.startswith("text "):
            yield action.removeprefix("text ")
        elif action == "range":
            ((_, body),) = branches
            for message in _field(dot, "Messages"):
                inside = {"Role": message["role"], "Content": message["content"]}
                yield from _run(body, inside)
        elif action == "if":
            for condition, body in branches:
                if _holds(condition, dot):
                    yield from _run(body, dot)
                    break
        else:
            yield str(_field(dot, action.removeprefix(".")))


def _holds(condition: str, dot: Any) -> bool:
    if match := re.fullmatch(r"if not \.(\w+)", condition):
        return not _field(dot, match[1])
    if match := re.fullmatch(r'if eq \.(\w+) "(\w+)"', condition):
        return bool(_field(dot, match[1]) == match[2])
    raise ValueError(f"`{condition}` is not supported")


def _field(dot: Any, name: str) -> Any:
    if not isinstance(dot, dict) or name not in dot:
        raise ValueError(f"`.{name}` is not supported")
    return dot[name]
