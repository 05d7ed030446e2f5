"""Which tokens of a conversation are learned, in ten published formats."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peftkit.bases.chat_templates import NAMES, chat_template
from peftkit.tasks.encoding.chat_format import ChatFormat, NotRendered, template_for
from tests.chat_formats import BY_NAME, FORMATS, Format

ALPHABET = st.one_of(
    st.sampled_from("aeiou lamp. ,?!\n\t0123456789"),
    st.sampled_from("您好订单在哪里灯的了，。？　"),
    st.sampled_from("😀🏮👩‍👩‍👧🇨🇳é́ßآ"),
    st.characters(codec="utf-8"),
)
TEXT = st.text(ALPHABET, max_size=30)
ANSWER = TEXT.map(str.strip)


@st.composite
def conversations(draw):
    """System-less or not, of one to four exchanges, some of them empty."""
    messages = [{"role": "system", "content": draw(TEXT)}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 4))):
        messages.append({"role": "user", "content": draw(TEXT)})
        messages.append({"role": "assistant", "content": draw(ANSWER)})
    return messages


def learned(form: Format, messages) -> list[str]:
    """Each run of supervised tokens, decoded."""
    tokenizer = form.tokenizer()
    tokens = ChatFormat.of(tokenizer).encode(messages)
    runs: list[list[int]] = []
    before = False
    for index, supervised in zip(tokens.input_ids, tokens.supervised, strict=True):
        if supervised and not before:
            runs.append([])
        if supervised:
            runs[-1].append(index)
        before = supervised
    return [tokenizer.decode(run, skip_special_tokens=False) for run in runs]


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
@given(messages=conversations())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_exactly_the_answers_and_their_ends_are_supervised(form, messages):
    special = form.tokenizer().all_special_tokens
    for message in messages:  # a text that holds a special token is another test's
        if any(token in message["content"] for token in special):
            return
    if messages[0]["role"] == "system" and not form.takes_system:
        messages = messages[1:]
    answers = [m["content"] for m in messages if m["role"] == "assistant"]
    assert learned(form, messages) == [form.answer(answer) for answer in answers]


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_training_reads_what_the_trained_model_is_given(form):
    messages = [
        {"role": "user", "content": "Where is it?"},
        {"role": "assistant", "content": "Here 🏮."},
        {"role": "user", "content": "谢谢"},
        {"role": "assistant", "content": "不客气。"},
    ]
    chat_format = ChatFormat.of(form.tokenizer())
    tokens = chat_format.encode(messages)
    for turn in (1, 3):
        prompt = chat_format.prompt(messages[:turn])
        assert tokens.input_ids[: len(prompt)] == prompt
        assert not tokens.supervised[len(prompt) - 1]
        assert tokens.supervised[len(prompt)]
    bos = form.tokenizer().bos_token_id
    if form.bos and form.name not in ("Llama-2", "Zephyr"):  # one for each exchange; none
        assert tokens.input_ids.count(bos) == 1
        assert tokens.input_ids[0] == bos


def test_a_template_that_takes_thoughts_out_of_earlier_turns_is_refused_and_another_offered():
    tokenizer = BY_NAME["Qwen3"].tokenizer()
    thought = "<think>short</think>\n\nA lamp."
    messages = [
        {"role": "user", "content": "What is it?"},
        {"role": "assistant", "content": thought},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": thought},
    ]
    assert learned(BY_NAME["Qwen3"], messages[:2]) == [f"{thought}<|im_end|>"]
    with pytest.raises(NotRendered, match="rewrites earlier turns"):
        ChatFormat.of(tokenizer).encode(messages)
    assert template_for(tokenizer, messages) == "chatml"


REFUSED = {
    "": "there is none",
    "{{ messages[0].nothing.more }}": "refuses the conversation",
    "{{ raise_exception('not today') }}": "not today",
    # no prompt for an answer
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}": (
        "writes `<|im_start|>assistant` before an answer"
    ),
    # no end of an answer
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}": "inside a token of the answer",
    "{% for m in messages %}{{ m.role }}:\n{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:\n{% endif %}": "without an end token",
    # thoughts before an answer that its prompt does not have
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}<think></think>{% endif %}{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}": (
        "<think></think>"
    ),
    # upper case
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | upper }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}": (
        "changes the text of an answer"
    ),
}


@pytest.mark.parametrize("template", REFUSED)
def test_a_template_that_cannot_be_trained_on_is_refused(template):
    form = BY_NAME["ChatML"]
    tokenizer = form.make(form.special, form.bos, form.eos)
    tokenizer.chat_template = template or None
    with pytest.raises(NotRendered) as told:
        ChatFormat.of(tokenizer)
    assert REFUSED[template] in str(told.value)


def test_two_beginnings_of_text_are_refused():
    form = BY_NAME["Llama-3"]
    tokenizer = form.make(form.special, form.bos, form.eos)
    tokenizer.chat_template = "{{ bos_token }}" + form.template
    with pytest.raises(NotRendered, match="twice"):
        ChatFormat.of(tokenizer)


def template_of_ours(name: str, form: Format) -> Format:
    """A format's tokenizer under a template that ships with peftkit."""
    end = {"chatml": "<|im_end|>", "plain": form.eos}[name]
    space = " " * (name == "plain")
    return replace(
        form,
        name=f"{form.name} {name}",
        template=chat_template(name),
        answer=lambda answer: f"{space}{answer}{end}",
    )


OURS = [template_of_ours("plain", form) for form in FORMATS]
OURS += [template_of_ours("chatml", form) for form in FORMATS if "<|im_end|>" in form.special]


@pytest.mark.parametrize("form", OURS, ids=lambda form: form.name)
@given(messages=conversations(), again=st.booleans(), unanswered=st.booleans())
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_templates_that_ship_teach_exactly_the_answers(form, messages, again, unanswered):
    special = form.tokenizer().all_special_tokens
    for message in messages:
        if any(token in message["content"] for token in special):
            return
    answers = [m["content"] for m in messages if m["role"] == "assistant"]
    more = {"role": "user", "content": "And?"}
    if again:  # two questions in a row
        messages = [*messages[:-1], more, messages[-1]]
    if unanswered:
        messages = [*messages, more]
    assert learned(form, messages) == [form.answer(answer) for answer in answers]


def test_chatml_wants_its_tokens_in_the_vocabulary():
    form = BY_NAME["Llama-2"]
    tokenizer = form.make(form.special, form.bos, form.eos)
    with pytest.raises(NotRendered, match="without an end token"):
        ChatFormat.of(tokenizer, chat_template("chatml"))
    tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"])
    tokens = ChatFormat.of(tokenizer, chat_template("chatml")).encode(
        [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "A lamp."}]
    )
    ids = [i for i, s in zip(tokens.input_ids, tokens.supervised, strict=True) if s]
    assert tokenizer.decode(ids).endswith("<|im_end|>")


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_a_template_is_offered_for_every_tokenizer(form):
    messages = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": ""}]
    assert template_for(form.tokenizer(), messages) in NAMES


def test_a_template_that_leaves_out_empty_answers_is_refused():
    form = BY_NAME["ChatML"]
    tokenizer = form.make(form.special, form.bos, form.eos)
    tokenizer.chat_template = form.template.replace(
        "{% for m in messages %}", "{% for m in messages if m.content %}"
    )
    with pytest.raises(NotRendered, match="leaves out empty answers"):
        ChatFormat.of(tokenizer).encode(
            [{"role": "user", "content": "What?"}, {"role": "assistant", "content": ""}]
        )
