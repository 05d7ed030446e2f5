"""A class for an earlier contract is refused by name; one that fits is taken, however written."""

from __future__ import annotations

import functools
from typing import ClassVar

import pytest

import peftkit as pk
from peftkit.errors import RecipeError


def test_a_hook_of_an_earlier_contract_is_named():
    with pytest.raises(RecipeError, match=r"`keep` is `reduce_outputs` now"):

        class Old(pk.TextClassification):
            def keep(self, outputs, targets):
                return outputs

    with pytest.raises(RecipeError, match=r"`reads` is `Examples.read_at`"):

        class Older(pk.TextClassification):
            reads: ClassVar[str] = "tokens"


@pytest.mark.parametrize("what", ["fewer", "more", "tokenizer"])
def test_a_hook_that_cannot_be_called_as_it_is_now_is_named(what):
    takes = {
        "fewer": lambda self, kept, examples: None,
        "more": lambda self, kept, examples, head, decision, further: None,
        "tokenizer": lambda self, kept, examples, head, tokenizer: None,
    }[what]
    told = r"`metrics` takes \(self, kept, examples, head, decision\) now"
    with pytest.raises(RecipeError, match=told):
        type("Old", (pk.TextClassification,), {"metrics": takes, "__module__": __name__})


def test_what_can_be_called_as_it_is_now_is_taken():
    def logged(hook):
        @functools.wraps(hook)
        def wrapper(*args, **options):
            return hook(*args, **options)

        return wrapper

    def plain(*args, **options):
        return None

    class Defaults(pk.TextClassification):
        def metrics(self, kept, examples, head, decision=None, further=1):
            return super().metrics(kept, examples, head, decision)

    class Decorated(pk.TextClassification):
        @logged
        def metrics(self, kept, examples, head, decision):
            return super().metrics(kept, examples, head, decision)

    class Anything(pk.TextClassification):
        metrics = plain

    with pytest.raises(RecipeError, match="`loss` takes"):

        class Lacking(pk.TextClassification):
            def loss(self):
                return None


def test_a_class_to_build_on_is_no_kind_of_its_own():
    from peftkit.methods.stored import StoredAsTensors, StoredByPeft

    for base in (StoredByPeft, StoredAsTensors):
        assert base not in pk.Method.kinds.values()

        class Built(base):
            """A method of its own."""

        assert Built in pk.Method.kinds.values()
