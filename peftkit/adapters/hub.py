"""Adapters on the Hugging Face Hub."""

from __future__ import annotations

from peftkit.adapters.folders import HUB_ID, adapter_in, user_path
from peftkit.adapters.newest_run import newest_run
from peftkit.errors import AdapterError, first_line

FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")
"""What is downloaded: no pickle, no program."""
RUNS = "runs/"
"""Where runs are written; no Hub id begins so."""


def find_adapter(name: str) -> None:
    """Raises AdapterError if a name is that of a folder, and there is no adapter in it; a Hub id
    passes.
    """
    if not _is_hub_id(name):
        adapter_in(user_path(newest_run(name)))


def _is_hub_id(name: str) -> bool:
    """Whether a name is that of a Hub repository, and of nothing that is here."""
    path = user_path(name)
    here = path.exists() or bool(path.parent.name and path.parent.is_dir())
    local = here or "/" not in name or name.startswith(RUNS)
    return not local and bool(HUB_ID.fullmatch(name.partition("@")[0]))


def on_this_machine(name: str) -> str:
    """A folder as it is, of `runs/<name>@latest` the newest run's; of a Hub id, `org/name` or
    `org/name@revision`, the downloaded one.

    Raises:
        AdapterError: the Hub does not give it.
    """
    if not _is_hub_id(name):
        return newest_run(name)
    repository, _, revision = name.partition("@")
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(repository, revision=revision or None, allow_patterns=list(FILES))
    except Exception as error:  # the Hub's client raises many kinds
        raise AdapterError(
            f"`{name}` is no folder, and the Hub does not give it: {first_line(error)}",
            "give a run folder such as `runs/<name>`, or check the id and the network",
        ) from error
