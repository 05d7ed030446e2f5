"""Rewound to 0, a model is its base; rewound to 1, what was trained; of every method, or it says
why not.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import peftkit as pk
from peftkit.adapters.loading import load_trained_model
from peftkit.bases.loading import load_weights
from peftkit.bases.opening import open_base
from peftkit.methods.method import trainable_parameters
from peftkit.methods.peft.layers import lora_layers
from peftkit.methods.peft.merging import rescale_lora
from peftkit.methods.rewinding import Rewinding
from tests.matrix import HEADS, METHODS, base_of, encoded_of, padded, rows, save_architecture

CPU = torch.device("cpu")
REFUSED = {
    "PrefixTuning", "PrefixTuning, projected", "PromptTuning", "PTuning", "HeadOnly",
    "PeftMethod, HRA", "PeftMethod, MISS", "PeftMethod, RANDLORA",
}  # fmt: skip
REWOUND = [name for name in METHODS if name not in REFUSED]
ON_BERT = ["BitFit", "FullFineTuning", "TopLayers", "Bottleneck, pfeiffer"]
ON_NF4 = ["LoRA", "DoRA", "IA3", "LayerNormTuning", "Bottleneck, houlsby"]


def cells() -> list[object]:
    """Every method on a classifier and on a language model, some on 4 bits; some of it slow."""
    found = [
        *((name, "classification", "BERT", "float32", name in ON_BERT) for name in REWOUND),
        *((n, "language model", "Qwen", "float32", n != "EVA") for n in REWOUND if n != "BitFit"),
        *((name, "language model", "Qwen", "nf4", name in ("LoRA", "DoRA")) for name in ON_NF4),
    ]  # Qwen3 has no biases
    return [
        pytest.param(cell, id="-".join(cell), marks=[] if quick else pytest.mark.slow)
        for *cell, quick in found
    ]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {name: save_architecture(folder / name, name) for name in ("BERT", "Qwen")}


def answers(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(**padded(rows())).logits


class Trained:
    """An adapter that was moved, saved and loaded again, and the base's answers."""

    def __init__(self, cell: tuple[str, str, str, str], checkpoints, folder: Path) -> None:
        name, head, architecture, precision = cell
        self.method, _ = METHODS[name]
        task, _ = HEADS[head]
        base = base_of(checkpoints[architecture], precision)
        opened, encoded = open_base(base), encoded_of(task)

        def load():
            torch.manual_seed(0)
            return load_weights(opened, encoded.head, torch.float32, CPU, 0.0)

        loaded = load()
        self.head = loaded.head
        self.base_answers = answers(loaded.model)
        model = self.method.inject(loaded.model, encoded, loaded.head)
        torch.manual_seed(1)
        below = tuple(f"{module}." for module in loaded.head)
        with torch.no_grad():
            for key, parameter in trainable_parameters(model).items():
                if not any(part in key for part in below):
                    parameter.add_(0.1 * torch.randn_like(parameter))
        self.answers = answers(model)
        self.method.save(model, folder)
        self.model = load_trained_model(
            folder, pk.Recipe(base=base, task=task, method=self.method), opened, encoded.head, CPU
        )
        self.starts = self.method.neutral_values(self.model, load)
        self.rewinding = Rewinding(self.model, self.starts)


@pytest.mark.parametrize("cell", cells())
def test_both_ends_are_exact(cell, checkpoints, tmp_path):
    trained = Trained(cell, checkpoints, tmp_path)
    before = answers(trained.model)
    assert float((before - trained.base_answers).abs().max()) > 1e-3
    trained.rewinding.to(0.5)
    middle = answers(trained.model)
    assert float((middle - before).abs().max()) > 1e-4
    trained.rewinding.to(0.0)
    assert torch.equal(answers(trained.model), trained.base_answers)
    trained.rewinding.to(1.0)
    assert torch.equal(answers(trained.model), before)
    assert not any(f".{module}." in f".{n}" for n in trained.starts for module in trained.head)


@pytest.mark.parametrize("name", ["LoRA, rsLoRA", "AdaLoRA", "PiSSA"])
def test_a_lora_is_rewound_as_merging_rescales_it(name, checkpoints, tmp_path):
    trained = Trained((name, "language model", "Qwen", "float32"), checkpoints, tmp_path)
    trained.rewinding.to(0.3)
    found = answers(trained.model)
    trained.rewinding.to(1.0)
    rescale_lora(trained.model, 0.3)
    torch.testing.assert_close(found, answers(trained.model), rtol=1e-5, atol=1e-5)
    assert lora_layers(trained.model)


def test_trained_weights_are_averaged_with_the_base(checkpoints, tmp_path):
    cell = ("FullFineTuning", "classification", "BERT", "float32")
    trained = Trained(cell, checkpoints, tmp_path)
    key = "bert.encoder.layer.0.output.dense.weight"
    parameter = dict(trained.model.named_parameters())[key]
    after = parameter.clone()
    trained.rewinding.to(0.25)
    expected = 0.75 * trained.starts[key] + 0.25 * after
    torch.testing.assert_close(parameter, expected, rtol=1e-6, atol=1e-7)


def test_methods_say_why_they_cannot_be_rewound():
    for name, (method, _) in METHODS.items():
        assert bool(method.refuses_rewinding()) == (name in REFUSED), name
    with_bias = pk.PeftMethod(config={"peft_type": "LORA", "bias": "all"})
    assert "`bias`" in with_bias.refuses_rewinding()


def test_rows_of_added_tokens_stay_as_trained(checkpoints, tmp_path):
    trained = Trained(
        ("FullFineTuning", "language model", "Qwen", "float32"), checkpoints, tmp_path
    )
    key = "model.embed_tokens.weight"
    rows_after = dict(trained.model.named_parameters())[key].clone()
    Rewinding(trained.model, trained.starts, added_ids=(94, 95)).to(0.0)
    found = dict(trained.model.named_parameters())[key]
    assert torch.equal(found[94:], rows_after[94:])
    assert torch.equal(found[:94], trained.starts[key][:94])
    assert not torch.equal(found[:94], rows_after[:94])
