"""The packages that peftkit needs, and the error for a missing one, with the command that installs
it.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from peftkit.errors import MissingPackageError, quoted

ALWAYS = {
    "torch": "torch",
    "transformers": "transformers",
    "peft": "peft",
    "accelerate": "accelerate",
    "datasets": "datasets",
    "evaluate": "evaluate",
    "huggingface_hub": "huggingface_hub",
    "jinja2": "jinja2",
    "markupsafe": "markupsafe",
    "matplotlib": "matplotlib",
    "numpy": "numpy",
    "pandas": "pandas",
    "psutil": "psutil",
    "pyarrow": "pyarrow",
    "pydantic": "pydantic",
    "rich": "rich",
    "rouge_score": "rouge-score",
    "sacrebleu": "sacrebleu",
    "safetensors": "safetensors",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "threadpoolctl": "threadpoolctl",
    "tokenizers": "tokenizers",
    "tyro": "tyro",
}
"""Module -> its name for pip, of everything that any run may need: a missing package is an error
before training, not after it."""
SOMETIMES = {"bitsandbytes": "bitsandbytes", "gguf": "gguf"}
"""The same for what only some recipes need; see `require`."""
SENTENCEPIECE = b"\n"
"""First byte of sentencepiece's files; tiktoken's are text, and begin with a letter."""
OF_OTHERS = {"PIL": "pillow", "google": "protobuf", "yaml": "pyyaml"}
"""The same for what libraries import under another name than pip's."""


def check_needed() -> None:
    """Raises MissingPackageError if one of `ALWAYS` is missing."""
    if missing := [module for module in ALWAYS if not is_installed(module)]:
        raise _missing(missing, "peftkit needs")


def require(module: str, why: str) -> None:
    """Raises MissingPackageError if a module is not installed.

    Args:
        why: what needs it, such as `a quantized base needs`.
    """
    if not is_installed(module):
        raise _missing([module], why)


def is_installed(module: str) -> bool:
    """Whether a top-level module can be found, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ModuleNotFoundError, ValueError):
        return module in sys.modules


@contextlib.contextmanager
def named_packages() -> Iterator[None]:
    """Inside, a missing module raises MissingPackageError, unless it is peftkit's own."""
    try:
        yield
    except ImportError as error:
        module = _not_found(error)
        if module is not None:
            known = module in ALWAYS or module in SOMETIMES
            raise _missing([module], "peftkit needs" if known else "a library needs") from error
        if missing := named_by_library(error):
            raise missing from error
        raise


def named_by_library(
    error: BaseException, folder: Path | None = None
) -> MissingPackageError | None:
    """MissingPackageError for a library's error that says what to install; None for others.

    Args:
        folder: of a model. If its tokenizer is a file of sentencepiece, transformers asks for
            tiktoken, the wrong package.
    """
    said = re.search(r"pip install (?:--?[\w-]+ )*([A-Za-z][\w.-]*\w)", str(error))
    if said is None or is_installed(said[1].replace("-", "_")) or _is_distribution(said[1]):
        return None
    if folder is None:
        return _missing([said[1]], "a library needs")
    pieces = [file.name for file in (*folder.glob("*.model"), *folder.glob("*.spm"))
              if file.read_bytes()[:1] == SENTENCEPIECE]  # fmt: skip
    if said[1] == "tiktoken" and pieces:
        return _missing(["sentencepiece"], f"`{pieces[0]}` needs")
    return _missing([said[1]], f"`{folder.name}` needs")


def _is_distribution(name: str) -> bool:
    """Whether a package is installed under the name by which pip knows it."""
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _not_found(error: BaseException | None) -> str | None:
    """The missing top-level module behind an error, which libraries wrap in their own; None for
    Python's modules and peftkit's.
    """
    found: str | None = None
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name:
            found = error.name.split(".")[0]
        error = error.__cause__ or error.__context__
    if found in sys.stdlib_module_names or (found and is_installed(found)):
        return None
    return None if found == "peftkit" else found


def _missing(modules: list[str], why: str) -> MissingPackageError:
    names = [{**ALWAYS, **SOMETIMES, **OF_OTHERS}.get(module, module) for module in modules]
    verb = "is" if len(names) == 1 else "are"
    it = "it" if len(names) == 1 else "them"
    return MissingPackageError(
        f"{quoted(names)} {verb} not installed, and {why} {it}", f"pip install {' '.join(names)}"
    )
