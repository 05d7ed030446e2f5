"""Reads the values of a JSON object that another program wrote, and checks their types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from peftkit.errors import AdapterError


@dataclass(frozen=True, eq=False)
class JsonObject(Mapping[str, object]):
    """A JSON object from a file, or one nested in it.

    As a mapping it returns values as they are. Each method, such as `text` or `number`, returns a
    value of its type, or an empty value if the name is missing or its value is null. The methods
    raise AdapterError if the value has another type.
    """

    content: Mapping[str, object]
    file: str
    """Name of the file, for messages."""

    def __getitem__(self, name: str) -> object:
        return self.content[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.content)

    def __len__(self) -> int:
        return len(self.content)

    def text(self, name: str) -> str:
        """Returns the text called `name`; empty if there is none."""
        value = self.content.get(name)
        if value is None or isinstance(value, str):
            return value or ""
        raise self._wrong(name, "a text")

    def number(self, name: str) -> float | None:
        """Returns the number called `name`; None if there is none."""
        value = self.content.get(name)
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            return value
        raise self._wrong(name, "a number")

    def whole(self, name: str) -> int | None:
        """Returns the whole number called `name`; None if there is none."""
        value = self.content.get(name)
        if value is None or (isinstance(value, int) and not isinstance(value, bool)):
            return value
        raise self._wrong(name, "a whole number")

    def items_of(self, name: str) -> list[object]:
        """Returns the list called `name`, with items of any type; empty if there is none."""
        value = self.content.get(name)
        if value is None or isinstance(value, list):
            return value or []
        raise self._wrong(name, "a list")

    def texts(self, name: str) -> list[str]:
        """Returns the list of texts called `name`; empty if there is none."""
        items = self.items_of(name)
        texts = [item for item in items if isinstance(item, str)]
        if len(texts) < len(items):
            raise self._wrong(name, "a list of texts")
        return texts

    def table(self, name: str) -> JsonObject:
        """Returns the nested object called `name`; empty if there is none."""
        value = self.content.get(name)
        if value is None or isinstance(value, Mapping):
            return JsonObject(value or {}, self.file)
        raise self._wrong(name, "an object")

    def _wrong(self, name: str, wanted: str) -> AdapterError:
        return AdapterError(
            f"`{name}` in {self.file} is {str(self.content[name])[:60]!r}, not {wanted}",
            "ask whoever published it, or correct it in a copy if you know what was trained",
        )
