"""Saves and loads exactly the trained tensors, for methods that add no tensors to the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from peftkit.bases.added_tokens import added_rows
from peftkit.errors import AdapterError
from peftkit.methods.method import trainable_parameters

WEIGHTS = "trained.safetensors"


def save_trained(model: nn.Module, folder: Path) -> None:
    """Saves the trainable parameters under their names in the model. Leaves out the
    embeddings of added tokens, which have their own file.
    """
    tensors = {n: p.detach().cpu().contiguous() for n, p in _without_added_rows(model).items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def parameters_of(model: nn.Module, modules: Iterable[str]) -> list[str]:
    """Returns names of all parameters inside the named modules."""
    below = tuple(f"{name}." for name in modules)
    return [name for name, _ in model.named_parameters() if name.startswith(below)]


def load_trained(model: nn.Module, folder: Path, expected: Iterable[str]) -> nn.Module:
    """Returns the model, frozen, with the expected parameters replaced by the saved ones.

    Raises:
        AdapterError: names or shapes in the file are not the expected ones.
    """
    parameters = dict(model.named_parameters())
    shapes = {name: tuple(parameters[name].shape) for name in expected}
    compare_tensors(folder / WEIGHTS, shapes)
    for name, tensor in load_file(folder / WEIGHTS).items():
        parameters[name].data = tensor.to(parameters[name].device)
    float_norms(model, shapes)
    return model.requires_grad_(False)


def restore_trained(model: nn.Module, folder: Path) -> None:
    """Loads the tensors of a folder into a model's trainable parameters.

    Raises:
        AdapterError: names or shapes differ between the file and the model.
    """
    fill_tensors(_without_added_rows(model), folder / WEIGHTS)


def fill_tensors(live: Mapping[str, Tensor], file: Path) -> None:
    """Copies the tensors of a file into `live`, whose tensors keep their dtype. On the meta device,
    only compares names and shapes.

    Raises:
        AdapterError: names or shapes differ between the file and the model.
    """
    compare_tensors(file, {name: tuple(tensor.shape) for name, tensor in live.items()})
    for name, tensor in load_file(file).items():
        if not live[name].is_meta:
            live[name].data.copy_(tensor)


def _without_added_rows(model: nn.Module) -> dict[str, nn.Parameter]:
    """Returns the trainable parameters by name, without the embeddings of added tokens."""
    rows = {id(parameter) for parameter in added_rows(model).values()}
    return {n: p for n, p in trainable_parameters(model).items() if id(p) not in rows}


def float_norms(model: nn.Module, names: Iterable[str]) -> None:
    """Makes each normalization layer that has one of the named parameters float32, since torch's
    norms do not accept a bfloat16 weight together with a float32 bias.
    """
    for owner in {name.rpartition(".")[0] for name in names}:
        if "norm" in type(module := model.get_submodule(owner)).__name__.lower():
            module.float()


def compare_tensors(file: Path, expected: dict[str, tuple[int, ...]]) -> None:
    """Raises AdapterError unless a safetensors file holds exactly these names and shapes."""
    shapes = _shapes(file)
    missing = [f"`{name}` is missing" for name in sorted(expected.keys() - shapes.keys())]
    _raise_if_wrong(file, [*missing, *_differences(shapes, expected)])


def compare_present(file: Path, expected: dict[str, tuple[int, ...]]) -> None:
    """Checks a file like `compare_tensors`, but allows that names are missing from the file."""
    _raise_if_wrong(file, _differences(_shapes(file), expected))


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the tensors in a safetensors file, by name."""
    if not file.is_file():
        raise AdapterError(
            f"no file `{file}`", "another method saved the adapter; give that method"
        )
    try:
        with safe_open(str(file), framework="pt") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise AdapterError(f"`{file}` is damaged: {error}", "copy the adapter again") from error


def _differences(
    shapes: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]]
) -> list[str]:
    return [
        *(f"`{name}` is unexpected" for name in sorted(shapes.keys() - expected.keys())),
        *(
            f"`{name}` has shape {shapes[name]}, not {expected[name]}"
            for name in sorted(expected.keys() & shapes.keys())
            if shapes[name] != expected[name]
        ),
    ]


def _raise_if_wrong(file: Path, wrong: list[str]) -> None:
    if wrong:
        raise AdapterError(f"`{file}` does not fit the model: {'; '.join(wrong[:5])}")
