"""What each method trains is as many numbers as the formula of its paper says, on real layers."""

from __future__ import annotations

import pytest

import peftkit as pk
from peftkit.stages.preparing import prepare

# the tiny BERT and Llama of conftest.py
H, INNER, LAYERS, LABELS, KEYS = 64, 128, 2, 2, 32  # KEYS: width of Llama's grouped keys and values
HEAD = {"bert": H * LABELS + LABELS, "llama": H * LABELS}
LINEAR = {  # (in, out) of every linear layer of the trunk
    "bert": LAYERS * (4 * [(H, H)] + [(H, INNER), (INNER, H)]) + [(H, H)],  # the last: the pooler
    "llama": LAYERS * [(H, H), (H, KEYS), (H, KEYS), (H, H), (H, INNER), (H, INNER), (INNER, H)],
}
BLOCK = {  # all parameters of one block
    "bert": 4 * (H * H + H) + (H * INNER + INNER) + (INNER * H + H) + 4 * H,
    "llama": 2 * H * H + 2 * H * KEYS + 3 * H * INNER + 2 * H,
}
ABOVE = {"bert": H * H + H, "llama": H}  # pooler; final norm
NORMS = {"bert": (2 * LAYERS + 1) * 2 * H, "llama": (2 * LAYERS + 1) * H}
BIASES = LAYERS * (4 * H + INNER + H + 2 * H) + H + H  # linear and norm; embeddings' norm; pooler
V = 5


def low_rank(base, r):
    return sum(r * (i + o) for i, o in LINEAR[base])


def bottleneck(places, reduction):
    inner = H // reduction
    return places * LAYERS * (2 * H * inner + inner + H)


CASES = [
    (pk.LoRA(r=4), lambda b: low_rank(b, 4)),
    (pk.LoRA(r=4, use_rslora=True, loraplus_lr_ratio=8), lambda b: low_rank(b, 4)),
    (pk.DoRA(r=4), lambda b: low_rank(b, 4) + sum(o for _, o in LINEAR[b])),
    (pk.PiSSA(r=4), lambda b: low_rank(b, 4)),
    (pk.OLoRA(r=4), lambda b: low_rank(b, 4)),
    (pk.EVA(r=4, rho=1), lambda b: low_rank(b, 4)),
    (pk.AdaLoRA(init_r=6, target_r=3), lambda b: low_rank(b, 6) + 6 * len(LINEAR[b])),
    (pk.IA3(), lambda b: LAYERS * (2 * (H if b == "bert" else KEYS) + INNER)),
    (
        pk.PrefixTuning(num_virtual_tokens=V),
        lambda b: V * LAYERS * 2 * (H if b == "bert" else KEYS),
    ),
    (
        pk.PrefixTuning(num_virtual_tokens=V, prefix_projection=True, encoder_hidden_size=16),
        lambda b: projected_prefix(H if b == "bert" else KEYS, 16),
    ),
    (pk.PromptTuning(num_virtual_tokens=V), lambda b: V * H),
    (
        pk.PTuning(num_virtual_tokens=V, encoder_hidden_size=16),
        lambda b: V * H + (H * 16 + 16) + (16 * 16 + 16) + (16 * H + H),
    ),
    (pk.BottleneckAdapter(reduction_factor=8), lambda b: bottleneck(2, 8)),
    (pk.BottleneckAdapter(placement="pfeiffer", reduction_factor=8), lambda b: bottleneck(1, 8)),
    (
        pk.BottleneckAdapter(placement="parallel", reduction_factor=8, ln_before=True),
        lambda b: bottleneck(1, 8) + LAYERS * 2 * H,
    ),
    (pk.LayerNormTuning(), lambda b: NORMS[b]),
    (pk.BitFit(), lambda b: BIASES),
    (pk.TopLayers(k=1), lambda b: BLOCK[b] + ABOVE[b]),
    (pk.HeadOnly(), lambda b: 0),
    (
        pk.PeftMethod(config={"peft_type": "LOHA", "r": 4, "target_modules": "all-linear"}),
        lambda b: 2 * low_rank(b, 4),
    ),
]  # fmt: skip


def projected_prefix(width, inner):
    return V * width + (width * inner + inner) + (inner * LAYERS * 2 * width + LAYERS * 2 * width)


@pytest.mark.parametrize(
    ("method", "formula", "base"),
    [
        pytest.param(method, formula, base, id=f"{method!r:.40}-{base}")
        for method, formula in CASES
        for base in ("bert", "llama")
        if (method.kind(), base) != ("BitFit", "llama")  # no biases; see test_refusals.py
    ],
)
def test_trainable_parameters_follow_the_formula(make_recipe, method, formula, base):
    counted = prepare(make_recipe(method, base)).trainable_parameters
    assert counted == formula(base) + HEAD[base]


@pytest.mark.parametrize("base", ["bert", "llama"])
def test_full_fine_tuning_trains_everything(make_recipe, base):
    prepared = prepare(make_recipe(pk.FullFineTuning(), base))
    assert prepared.trainable_parameters == prepared.total_parameters


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_quantization_changes_no_count(make_recipe, quantization):
    plain = prepare(make_recipe(pk.LoRA(r=4)))
    quantized = prepare(make_recipe(pk.LoRA(r=4), quantization=quantization))
    assert quantized.trainable_parameters == plain.trainable_parameters
    assert quantized.total_parameters == plain.total_parameters


def test_every_method_has_a_formula():
    from peftkit.methods.method import Method

    ours = {name for name, kind in Method.kinds.items() if kind.__module__.startswith("peftkit.")}
    assert ours == {method.kind() for method, _ in CASES} | {"FullFineTuning"}
