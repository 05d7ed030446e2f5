"""Lists the packages peftkit needs; reports a missing one with the command to install it."""

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
    "nltk": "nltk",
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
"""Module -> pip's name of its package, for all packages that any run may need. If a package is
missing, the error comes before training, not after."""
SOMETIMES = {"bitsandbytes": "bitsandbytes", "gguf": "gguf"}
"""Module -> pip's name, for packages that only some recipes need; see `require`."""
NOT_INSTALLED = "not installed"
SENTENCEPIECE = b"\n"
"""First byte of a sentencepiece file; a tiktoken file is text and starts with a letter."""
OF_OTHERS = {"PIL": "pillow", "google": "protobuf", "yaml": "pyyaml"}
"""Module -> pip's name, where the two differ, for modules that other libraries need."""


def check_needed() -> None:
    """Raises MissingPackageError if a package of `ALWAYS` is not installed."""
    if missing := [module for module in ALWAYS if not is_installed(module)]:
        raise _missing(missing, "peftkit needs")


def require(module: str, why: str) -> None:
    """Raises MissingPackageError if a module is not installed.

    Args:
        why: what needs the module, with the verb, such as `a quantized base needs`.
    """
    if not is_installed(module):
        raise _missing([module], why)


def installed_version(package: str) -> str:
    """The version of an installed package; `NOT_INSTALLED` if it is missing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return NOT_INSTALLED


def is_installed(module: str) -> bool:
    """Whether a top-level module is installed; does not import it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ModuleNotFoundError, ValueError):
        return module in sys.modules


@contextlib.contextmanager
def report_missing_packages() -> Iterator[None]:
    """Turns an ImportError raised inside the block into MissingPackageError if a package is not
    installed.
    """
    try:
        yield
    except ImportError as error:
        module = _missing_module(error)
        if module is not None:
            known = module in ALWAYS or module in SOMETIMES
            raise _missing([module], "peftkit needs" if known else "a library needs") from error
        if missing := missing_package(error):
            raise missing from error
        raise


def missing_package(error: BaseException, folder: Path | None = None) -> MissingPackageError | None:
    """A MissingPackageError for a library's error that asks for `pip install PACKAGE`; None for
    other errors, or if the package is installed.

    Args:
        folder: the model's folder, if the error is from opening a model. If its tokenizer is a
            sentencepiece file, transformers asks for tiktoken, the wrong package.
    """
    command = re.search(r"pip install (?:--?[\w-]+ )*([A-Za-z][\w.-]*\w)", str(error))
    package = "" if command is None else command[1]
    if not package or is_installed(package.replace("-", "_")) or _is_distribution(package):
        return None
    if folder is None:
        return _missing([package], "a library needs")
    pieces = [file.name for file in (*folder.glob("*.model"), *folder.glob("*.spm"))
              if file.read_bytes()[:1] == SENTENCEPIECE]  # fmt: skip
    if package == "tiktoken" and pieces:
        return _missing(["sentencepiece"], f"`{pieces[0]}` needs")
    return _missing([package], f"`{folder.name}` needs")


def _is_distribution(name: str) -> bool:
    """Whether a package with this pip name is installed."""
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _missing_module(error: BaseException | None) -> str | None:
    """Name of the missing top-level module that caused an error, directly or through other errors.
    None if no module is missing, or if the missing module belongs to Python or peftkit.
    """
    module: str | None = None
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name:
            module = error.name.split(".")[0]
        error = error.__cause__ or error.__context__
    if module in sys.stdlib_module_names or (module and is_installed(module)):
        return None
    return None if module == "peftkit" else module


def _missing(modules: list[str], why: str) -> MissingPackageError:
    names = [{**ALWAYS, **SOMETIMES, **OF_OTHERS}.get(module, module) for module in modules]
    verb = "is" if len(names) == 1 else "are"
    it = "it" if len(names) == 1 else "them"
    return MissingPackageError(
        f"{quoted(names)} {verb} not installed, and {why} {it}", f"pip install {' '.join(names)}"
    )
