"""Losses that couple outputs: against whole logits, one unpadded document at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import peftkit as pk
from peftkit.data.encoded import START_VALUES, Examples
from peftkit.data.head import Head
from peftkit.data.ragged import Ragged
from peftkit.data.rows import Row
from peftkit.errors import DataError
from peftkit.evaluation.scoring import run_model, start_values
from peftkit.methods.method import trainable_parameters
from peftkit.tasks.losses import CrossEntropy, Loss, cross_entropies
from peftkit.training.forward import output_layer
from peftkit.training.forward.batching import check_units, cut_step, inference_batches, pack_step
from peftkit.training.forward.self_check import choose_engine
from peftkit.training.forward.steps import steps_of
from tests.engines import engine_of
from tests.test_fast_paths import compare_gradients, inject, model_of

LENGTHS = (9, 14, 5, 30, 12, 7)
ANSWERS = 3
"""Tokens at the end of each text that are learned."""
LANGUAGE = Head("AutoModelForCausalLM", "CAUSAL_LM", trained=False)
QUESTIONS = Head("AutoModelForQuestionAnswering", "QUESTION_ANS", ("start", "end"))


@dataclass(frozen=True)
class Spans(Loss):
    """-log softmax over an example's places, at its start and at its end."""

    linear: ClassVar[bool] = False

    def values(self, outputs, targets):
        return outputs.float()

    def total(self, values, batch):
        total = values.new_zeros(())
        for example in range(len(batch.indices)):
            places = batch.example_of == example
            log_p = values[places].log_softmax(0)  # (places, 2)
            total = total - (log_p * batch.targets[places]).sum()
        return total / 2

    def count(self, examples: Examples, indices: Sequence[int]) -> float:
        return float(len(indices))


@dataclass(frozen=True)
class DPO(Loss):
    """-log sigmoid(beta * (gain of the chosen - gain of the rejected answer)); gain: how much
    likelier it became than before training (Rafailov et al. 2023, arXiv:2305.18290).
    """

    beta: float = 0.1
    linear: ClassVar[bool] = False
    needs_start_values: ClassVar[bool] = True

    def values(self, outputs, targets):
        return cross_entropies(outputs, targets)

    def total(self, values: Tensor, batch) -> Tensor:
        gains = values.new_zeros(len(batch.indices))
        gains = gains.index_add(0, batch.example_of, batch.column(START_VALUES) - values)
        chosen, rejected = gains[0::2], gains[1::2]
        assert (batch.units()[0::2] == batch.units()[1::2]).all()
        return -F.logsigmoid(self.beta * (chosen - rejected)).sum()

    def count(self, examples: Examples, indices: Sequence[int]) -> float:
        return len(indices) / 2


def texts() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(4, 80, size=n) for n in LENGTHS]


def pairs() -> Examples:
    """Three chosen texts, each before the rejected one of its pair."""
    ids = texts()
    read_at = Ragged.of([np.arange(n - ANSWERS - 1, n - 1) for n in LENGTHS], width=1)
    return Examples(
        rows=tuple(Row(number, {}) for number in range(3)),
        inputs={"input_ids": Ragged.of(ids)},
        targets=np.concatenate([row[-ANSWERS:] for row in ids]),
        read_at=read_at,
        row_of=np.repeat(np.arange(3), 2),
        units=np.repeat(np.arange(3), 2),
    )


def questions() -> Examples:
    """Texts with a start and an end, read at all places but the first two."""
    ids = texts()
    targets = [np.zeros((n - 2, 2), np.float32) for n in LENGTHS]
    for target in targets:
        target[0, 0] = target[2, 1] = 1
    return Examples(
        rows=tuple(Row(number, {}) for number in range(len(ids))),
        inputs={"input_ids": Ragged.of(ids)},
        targets=np.concatenate(targets),
        read_at=Ragged.of([np.arange(2, n) for n in LENGTHS], width=1),
    )


def logits_of(model, examples: Examples, index: int):
    ids = torch.from_numpy(examples.input_ids[index]).long()[None]
    out = model(input_ids=ids)
    at = torch.from_numpy(examples.read_at[index][:, 0]).long()
    if hasattr(out, "start_logits"):
        return torch.stack((out.start_logits, out.end_logits), -1)[0, at]
    return out.logits[0, at]


def gradients_by_hand(model, loss: Tensor) -> dict[str, Tensor]:
    loss.backward()
    trained = trainable_parameters(model)
    found = {name: p.grad for name, p in trained.items() if p.grad is not None}
    for parameter in trained.values():
        parameter.grad = None
    return found


METHODS = [pk.LoRA(r=4, target_modules="all-linear"), pk.FullFineTuning()]
LAYOUTS = ["padded", "packed"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_a_loss_over_the_places_of_an_example(kind, layout):
    model, examples = model_of(kind, QUESTIONS.auto_class, labels=2), questions()
    model = inject(pk.FullFineTuning(), model, encoded_of(examples, QUESTIONS))
    model.qa_outputs.bias.requires_grad_(False)  # the same for all places: its gradient is noise
    by_hand = torch.zeros(())
    for index in range(len(examples)):
        targets = torch.from_numpy(examples.targets[examples.outputs_of(index)])
        by_hand = by_hand - (logits_of(model, examples, index).log_softmax(0) * targets).sum() / 2
    right = gradients_by_hand(model, by_hand / 6)
    engine = engine_of(model, QUESTIONS, layout, Spans())
    for cut in ([range(6)], [(0, 3), (5,), (1, 2, 4)]):
        passed = engine.gradients(examples, cut, engine.loss.count(examples, range(6)))
        assert float(passed.loss) == pytest.approx(by_hand.item() / 6, rel=1e-5)
        compare_gradients(model, right)
        model.zero_grad()
    kept, loss = run_model(engine, examples, lambda outputs, _: outputs)
    assert kept.shape == (sum(LENGTHS) - 12, 2)
    assert loss == {"loss": pytest.approx(by_hand.item() / 6, rel=1e-5)}


def encoded_of(examples: Examples, head: Head):
    from peftkit.data.encoded import Encoded

    return Encoded(examples, examples, examples, head, 0)


@pytest.mark.parametrize("chunk", [2**24, 200])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("method", METHODS, ids=["frozen", "trained"])
def test_a_loss_over_pairs_never_holds_all_logits(method, layout, chunk, monkeypatch):
    """With the output layer frozen and trained; and in chunks of two outputs, of which neither ends
    with an example.
    """
    monkeypatch.setattr(output_layer, "CHUNK", chunk)
    model, examples = model_of("llama", LANGUAGE.auto_class), pairs()
    model = inject(method, model, encoded_of(examples, LANGUAGE))
    start = np.random.default_rng(1).normal(4, 1, len(examples.targets)).astype(np.float32)
    examples = replace(examples, columns={START_VALUES: start})
    by_hand = torch.zeros(())
    for pair in range(3):
        gains = []
        for index in (2 * pair, 2 * pair + 1):
            of = examples.outputs_of(index)
            targets = torch.from_numpy(examples.targets[of]).long()
            log_p = logits_of(model, examples, index).log_softmax(-1)
            gain = log_p[torch.arange(ANSWERS), targets] + torch.from_numpy(start[of])
            gains.append(gain.sum())
        by_hand = by_hand - torch.log(torch.sigmoid(0.1 * (gains[0] - gains[1])))
    right = gradients_by_hand(model, by_hand / 3)
    engine = engine_of(model, LANGUAGE, layout, DPO())
    for cut in ([range(6)], [(2, 3), (0, 1, 4, 5)]):
        passed = engine.gradients(examples, cut, engine.loss.count(examples, range(6)))
        assert engine.forward.in_chunks
        assert float(passed.loss) == pytest.approx(by_hand.item() / 3, rel=1e-5)
        compare_gradients(model, right)
        model.zero_grad()
    chosen = choose_engine(engine, examples, method, ["padded", "packed"], gradients=True)
    assert not chosen.notes
    loss = run_model(engine, examples, lambda o, _: o[:, :1])[1]
    assert loss == {"loss": pytest.approx(by_hand.item() / 3, rel=1e-5)}
    unknown = replace(examples, columns={})  # an adapter answers, and no one knows the base's
    kept, loss = run_model(engine, unknown, lambda o, _: o[:, :1])
    assert (len(kept), loss) == (len(start), {})


def test_cross_entropy_as_a_coupled_loss_is_the_same():
    """Values of a chunk, multiplied in the backward pass, and their sum with its gradient."""

    class Coupled(CrossEntropy):
        linear: ClassVar[bool] = False

    model, examples = model_of("llama", LANGUAGE.auto_class), pairs()
    model = inject(METHODS[0], model, encoded_of(examples, LANGUAGE))
    found = []
    for loss in (CrossEntropy(0.1), Coupled(0.1)):
        engine_of(model, LANGUAGE, "packed", loss).gradients(examples, [range(6)])
        found.append({n: p.grad.clone() for n, p in trainable_parameters(model).items()})
        model.zero_grad()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chunks_that_are_computed_again_have_the_same_dropout_and_precision(dtype):
    torch.manual_seed(0)
    layer = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(8, 30))
    module = output_layer.OutputLayer(layer, None, chunk_size=4)
    hidden, targets = torch.randn(10, 8, requires_grad=True), torch.arange(10)
    found = []
    for loss in ("weighted_sum", "values"):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            if loss == "values":
                total = module.values(hidden, targets, cross_entropies).sum()
            else:
                total = module.weighted_sum(hidden, targets, torch.ones(10), cross_entropies)
        drawn = torch.get_rng_state()
        total.backward()
        assert torch.equal(torch.get_rng_state(), drawn)
        found.append([hidden.grad, *(parameter.grad for parameter in layer.parameters())])
        hidden.grad = None
        layer.zero_grad()
    for ours, right in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-5, atol=1e-6)


def test_start_values_are_the_losses_of_the_model_as_it_is():
    model, examples = model_of("llama", LANGUAGE.auto_class), pairs()
    found = start_values(engine_of(model, LANGUAGE, "packed", DPO()), examples)
    for index in range(6):
        of = examples.outputs_of(index)
        targets = torch.from_numpy(examples.targets[of]).long()
        right = F.cross_entropy(logits_of(model, examples, index), targets, reduction="none")
        np.testing.assert_allclose(found[of], right.detach().numpy(), rtol=1e-5)


def test_examples_of_a_unit_stay_together():
    examples = pairs()
    apart = replace(examples, units=np.array([0, 1, 2, 2, 1, 0]))
    for given in (examples, apart):
        whole = {frozenset(unit) for unit in given.by_unit(range(6))}
        cuts = [cut_step(given, range(6), tokens, 0, 1)[0] for tokens in (20, 60, 1000)]
        cuts += [pack_step(given, range(6), tokens, 1)[0] for tokens in (20, 60, 1000)]
        cuts += [list(inference_batches(given, tokens, how)) for tokens in (20, 1000)
                 for how in LAYOUTS]  # fmt: skip
        for cut in cuts:
            assert sorted(i for batch in cut for i in batch) == list(range(6))
            assert all(
                unit <= set(batch) or not unit & set(batch) for batch in cut for unit in whole
            )
        steps = list(steps_of(given, pk.Training(batch_size=2), 4, seed=0))
        assert [len(step.indices) for step in steps] == [4, 2, 4, 2]
        assert all(set(step.indices) >= unit or not unit & set(step.indices)
                   for step in steps for unit in whole)  # fmt: skip


def test_a_unit_beyond_the_budget_is_refused():
    check_units(pairs(), 60)
    with pytest.raises(DataError, match=r"2 texts of row 1 .* take 60 tokens together"):
        check_units(pairs(), 59)


def test_a_perturbation_meets_the_embeddings_of_its_examples():
    model, examples = model_of("llama", LANGUAGE.auto_class), pairs()
    model = inject(METHODS[0], model, encoded_of(examples, LANGUAGE))
    seen = []

    def third(embeddings: Tensor, example_of: Tensor) -> Tensor:
        seen.append(example_of)
        return embeddings + 0.1 * (example_of == 2)[..., None]

    losses = {}
    for layout in ("padded", "packed", "shared"):
        engine = engine_of(model, LANGUAGE, layout)
        losses[layout] = engine.gradients(examples, [(0, 2, 3)], perturbation=third).loss
        plain = engine.gradients(examples, [(0, 2, 3)]).loss
        nothing = engine.gradients(examples, [(0, 2, 3)], perturbation=lambda e, _: e).loss
        assert nothing == plain
        assert abs(losses[layout] - plain) > 1e-3
    assert losses["padded"] == pytest.approx(float(losses["packed"]), rel=1e-5)
    assert losses["shared"] == losses["packed"]
    assert seen[0].tolist()[0] == [0] * 9 + [-1] * 21  # padded to the longest, of 30
    assert seen[-1].tolist() == [[0] * 9 + [1] * 5 + [2] * 30]
