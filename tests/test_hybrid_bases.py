"""Small copies of a base whose blocks are of several kinds have all of them."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import peftkit as pk
from peftkit.bases.opening import open_base
from peftkit.data.head import Head
from peftkit.stages.small_copies import least_blocks, shrink_base
from tests.test_unmergeable import jamba

HEAD = Head("AutoModelForCausalLM", "CAUSAL_LM")


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory):
    """Of blocks that attend and blocks that do not, by turns."""
    folder = jamba(tmp_path_factory.mktemp("jamba") / "base")
    return open_base(pk.Base(name_or_path=str(folder)), 0, False)


@settings(max_examples=8, deadline=None)
@given(st.integers(2, 4), st.data())
def test_a_copy_has_all_kinds_of_blocks(hybrid, period, data):
    offset = data.draw(st.integers(0, period - 1))
    config = type(hybrid.config)(
        **{**hybrid.config.to_dict(), "num_hidden_layers": 8, "attn_layer_period": period,
           "attn_layer_offset": offset}
    )  # fmt: skip
    base = replace(hybrid, config=config)
    least = least_blocks(base)
    assert set(config.layer_types[:least]) == set(config.layer_types)
    assert least == 1 or set(config.layer_types[: least - 1]) != set(config.layer_types)
    with tempfile.TemporaryDirectory() as folder:
        small = shrink_base(base, HEAD, least, Path(folder))
    assert small.config.num_hidden_layers == least
    assert set(small.config.layer_types) == set(config.layer_types)


def test_others_may_have_a_single_block(chat_base):
    base = open_base(pk.Base(name_or_path=str(chat_base)), 0, False)
    assert least_blocks(base) == 1
