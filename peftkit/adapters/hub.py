"""Downloads adapters from the Hugging Face Hub."""

from __future__ import annotations

from peftkit.adapters.folders import HUB_ID, adapter_in, user_path
from peftkit.adapters.newest_run import newest_run
from peftkit.errors import AdapterError, first_line

FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")
"""Patterns of the files to download; none matches a pickle or code."""
RUNS = "runs/"
"""Beginning of the paths of run folders; no Hub id begins with it."""


def find_adapter(name: str) -> None:
    """Raises AdapterError if a local path holds no adapter; Hub ids are not checked."""
    if not _is_hub_id(name):
        adapter_in(user_path(newest_run(name)))


def _is_hub_id(name: str) -> bool:
    """Whether a name is a Hub id rather than a local path."""
    path = user_path(name)
    here = path.exists() or bool(path.parent.name and path.parent.is_dir())
    local = here or "/" not in name or name.startswith(RUNS)
    return not local and bool(HUB_ID.fullmatch(name.partition("@")[0]))


def local_path(name: str) -> str:
    """The local folder of an adapter; downloads it if the name is a Hub id.

    Args:
        name: a local folder, `runs/<name>@latest` for the newest run, or a Hub id (`org/name`,
            `org/name@revision`).

    Raises:
        AdapterError: the Hub cannot provide the repository.
    """
    if not _is_hub_id(name):
        return newest_run(name)
    repository, _, revision = name.partition("@")
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(repository, revision=revision or None, allow_patterns=list(FILES))
    except Exception as error:  # the Hub's client raises many types
        raise AdapterError(
            f"`{name}` is no folder, and the Hub does not give it: {first_line(error)}",
            "give a run folder such as `runs/<name>`, or check the id and the network",
        ) from error
