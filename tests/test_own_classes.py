"""The module of a class of one's own is named so that the option works from here."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import peftkit as pk
from peftkit.adapters.own_classes import trust_hint


def test_it_is_named_as_it_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    away = "`--trust-module path/to/lamps_of_mine.py`"
    assert away in trust_hint("lamps_of_mine:Lamp")
    (tmp_path / "lamps_of_mine.py").touch()
    assert trust_hint("lamps_of_mine:Lamp") == "`--trust-module lamps_of_mine`"
    assert "from the folder that holds `lamps`" in trust_hint("lamps.of.mine:Lamp")
    assert trust_hint("json.decoder:JSONDecoder") == "`--trust-module json.decoder`"


@given(st.text(max_size=20))
@pytest.mark.filterwarnings("error")
def test_any_name_of_a_class_is_told(kind):
    assert "--trust-module" in trust_hint(kind)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("class T(pk.TextClassification):\n    def keep(self, outputs, targets): ...",
         "`keep` is `reduce_outputs` now"),
        ("class T(pk.TextClassification):\n    reads: ClassVar[str] = 'first'",
         "`reads` is `Examples.read_at`"),
        ("class T(pk.TextClassification):\n    def encode(self, splits, tokenizer): ...",
         r"`encode` takes \(self, splits, base\) now"),
        ("class T(pk.TextClassification):\n    def metrics(self, outputs, examples, head): ...",
         r"`metrics` takes \(self, kept, examples, head, decision\) now"),
        ("class T(pk.Chat):\n    def loss(self, outputs, targets, weights, label_smoothing): ...",
         r"`loss` takes \(self, training\) now"),
        ("class M(pk.LoRA):\n    def supports(self, task, base): ...",
         r"`supports` is `refuses\(head"),
    ],
)  # fmt: skip
def test_a_class_for_an_earlier_contract_names_the_new_hook(code, told):
    with pytest.raises(pk.PeftkitError, match=told) as caught:
        exec(
            f"import peftkit as pk\nfrom typing import ClassVar\n{code}", {"__name__": "elsewhere"}
        )
    assert "write it like the class" in caught.value.hint


def test_hooks_of_the_contract_are_taken_whatever_their_parameters_are_called():
    code = """
import peftkit as pk
class Mine(pk.TextClassification):
    def metrics(self, logits, of, top, choice): ...
    def loss(self, settings=None): ...
"""
    exec(code, {"__name__": "elsewhere"})
