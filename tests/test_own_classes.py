"""The module of a class of one's own is named so that the option works from here."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftkit.adapters.own_classes import how_to_trust


def test_it_is_named_as_it_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    away = "`--trust-module path/to/lamps_of_mine.py`"
    assert away in how_to_trust("lamps_of_mine:Lamp")
    (tmp_path / "lamps_of_mine.py").touch()
    assert how_to_trust("lamps_of_mine:Lamp") == "`--trust-module lamps_of_mine`"
    assert "from the folder that holds `lamps`" in how_to_trust("lamps.of.mine:Lamp")
    assert how_to_trust("json.decoder:JSONDecoder") == "`--trust-module json.decoder`"


@given(st.text(max_size=20))
@pytest.mark.filterwarnings("error")
def test_any_name_of_a_class_is_told(kind):
    assert "--trust-module" in how_to_trust(kind)
