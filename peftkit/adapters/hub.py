"""Adapters on the Hugging Face Hub."""

from __future__ import annotations

from peftkit.adapters.folders import HUB_ID, user_path
from peftkit.errors import AdapterError, first_line

FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")
"""What is downloaded: no pickle, no program."""


def on_this_machine(name: str) -> str:
    """A folder as it is; of a Hub id, `org/name` or `org/name@revision`, the downloaded one.

    Raises:
        AdapterError: the Hub does not give it.
    """
    repository, _, revision = name.partition("@")
    path = user_path(name)
    here = path.exists() or bool(path.parent.name and path.parent.is_dir())
    if here or "/" not in name or not HUB_ID.fullmatch(repository):
        return name
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(repository, revision=revision or None, allow_patterns=list(FILES))
    except Exception as error:  # the Hub's client raises many kinds
        raise AdapterError(
            f"`{name}` is no folder, and the Hub does not give it: {first_line(error)}",
            "give a run folder such as `runs/<name>`, or check the id and the network",
        ) from error
