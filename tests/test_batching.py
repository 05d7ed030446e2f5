"""Batching decides speed and memory, never a result."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peftkit.data.encoded import IGNORE_INDEX, Examples
from peftkit.data.head import Head
from peftkit.data.ragged import Ragged
from peftkit.tasks.losses import MANY, CrossEntropy, cross_entropies
from peftkit.training.forward.batching import (
    cut_step,
    inference_batches,
    pack_step,
    padded_tokens,
)
from peftkit.training.forward.collating import collate
from peftkit.training.forward.steps import count_steps, seeded_steps
from tests.engines import engine_of
from tests.examples import examples_from


def examples_of(lengths: list[int], per_token: bool = False, weights: bool = False) -> Examples:
    random = np.random.default_rng(0)
    targets = [random.integers(0, 3, size=n if per_token else 1) for n in lengths]
    if per_token:
        for target in targets:
            target[::2] = IGNORE_INDEX
    return examples_from(
        [random.integers(4, 60, size=n) for n in lengths],
        targets,
        [random.random(len(target)) for target in targets] if weights else None,
    )


LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=24)


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 200), st.integers(1, 5), st.integers(0, 500))
def test_cutting_keeps_every_example_and_the_budget(lengths, budget, processes, overhead):
    plan = cut_step(examples_of(lengths), range(len(lengths)), budget, overhead, processes)
    assert sorted(i for part in plan for batch in part for i in batch) == list(range(len(lengths)))
    assert len(plan) == processes
    assert len({len(part) for part in plan}) == 1, "every process runs as many passes"
    for batch in (batch for part in plan for batch in part if len(batch) > 1):
        assert len(batch) * max(lengths[i] for i in batch) <= budget


TWO = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=16)


@settings(deadline=None)
@given(TWO, st.integers(1, 300), st.integers(0, 300))
def test_of_two_streams_each_is_padded_to_its_own_longest(lengths, budget, overhead):
    examples = examples_of([first for first, _ in lengths])
    decoder = Ragged.of([[5] * second for _, second in lengths])
    examples = replace(examples, inputs={**examples.inputs, "decoder_input_ids": decoder})
    plan = cut_step(examples, range(len(lengths)), budget, overhead, 1)[0]
    for batches in (plan, list(inference_batches(examples, budget))):
        assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
        for batch in batches:
            padded = collate(examples, batch, 0).num_padded_tokens
            assert padded == padded_tokens(examples, batch, "padded")
            assert padded <= budget or len(batch) == 1


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 200), st.integers(1, 5))
def test_packing_keeps_every_example_and_the_budget(lengths, budget, processes):
    plan = pack_step(examples_of(lengths), range(len(lengths)), budget, processes)
    assert sorted(i for part in plan for row in part for i in row) == list(range(len(lengths)))
    assert len(plan) == processes
    assert len({len(part) for part in plan}) == 1, "every process runs as many passes"
    for row in (row for part in plan for row in part if len(row) > 1):
        assert sum(lengths[i] for i in row) <= budget
    assert sum(not row for part in plan for row in part) < processes, "empty ones only fill up"


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 100))
def test_cuts_are_the_cheapest_there_are(lengths, overhead):
    lengths = sorted(lengths)[:7]

    def cost(batches):
        return sum(len(b) * max(lengths[i] for i in b) + overhead for b in batches)

    def all_cuts(start):
        if start == len(lengths):
            yield []
        for end in range(start + 1, len(lengths) + 1):
            for rest in all_cuts(end):
                yield [range(start, end), *rest]

    found = cut_step(examples_of(lengths), range(len(lengths)), 10_000, overhead, 1)[0]
    assert cost(found) == min(map(cost, all_cuts(0)))


def test_order_is_a_permutation_of_its_own_in_every_epoch_and_fixed_by_the_seed():
    def epochs(seed):
        steps = list(seeded_steps(10, 4, 6, seed))
        assert [s.number for s in steps] == [1, 2, 3, 4, 5, 6]
        assert [s.last_of_epoch for s in steps] == [False, False, True] * 2
        return [[i for s in steps if s.epoch == e for i in s.indices] for e in (1, 2)]

    torch.rand(1)  # other uses of random numbers do not matter
    first, second = epochs(0)
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert epochs(0) == [first, second]
    assert epochs(1) != [first, second]


@pytest.mark.parametrize(("max_steps", "steps"), [(None, 9), (4, 4), (100, 9)])
def test_count_steps(max_steps, steps):
    assert count_steps(10, 4, 3, max_steps) == steps
    assert len(list(seeded_steps(10, 4, steps, 0))) == steps


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 100))
def test_inference_batches_cover_every_example_once(lengths, budget):
    batches = list(inference_batches(examples_of(lengths), budget))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))


def gradients(model) -> dict[str, torch.Tensor]:
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["bert", "llama"])
@pytest.mark.parametrize("output", ["pooled", "tokens"])
def test_micro_batches_compute_what_unpadded_single_documents_do(
    bases, kind, output, smoothing, weights
):
    import transformers

    name, task_type = {
        "pooled": ("SequenceClassification", "SEQ_CLS"),
        "tokens": ("TokenClassification", "TOKEN_CLS"),
    }[output]
    torch.manual_seed(0)
    model = (
        getattr(transformers, f"AutoModelFor{name}")
        .from_pretrained(bases[kind], num_labels=3, pad_token_id=0)
        .eval()
    )
    examples = examples_of([3, 17, 9, 9, 30, 2, 11], output == "tokens", weights)
    everything = range(len(examples))
    count = 0.0
    total = torch.zeros(())
    for index in everything:  # the reference: no padding, no mask, no collate
        of = examples.outputs_of(index)
        target = torch.from_numpy(examples.targets[of])
        weight = torch.from_numpy(examples.weights[of]) if weights else torch.ones(len(target))
        ids = torch.from_numpy(examples.input_ids[index]).long()[None]
        logits = model(input_ids=ids).logits
        logits = logits if output == "pooled" else logits[0, examples.read_at[index][:, 0]]
        total = total + (cross_entropies(logits, target, smoothing) * weight).sum()
        count += float((weight * (target != IGNORE_INDEX)).sum())
    (total / count).backward()
    reference = gradients(model)
    loss = CrossEntropy(smoothing)
    assert loss.count(examples, everything) == pytest.approx(count)
    engine = engine_of(model, Head(f"AutoModelFor{name}", task_type), loss=loss)
    for budget, overhead in ((60, 0), (120, 64), (8192, 4096)):
        summed = engine.gradients(
            examples, cut_step(examples, everything, budget, overhead, 1)[0], count
        ).loss.item()
        assert summed == pytest.approx(total.item() / count, rel=1e-5)
        for name, gradient in gradients(model).items():
            difference = (gradient - reference[name]).norm()
            assert difference <= 1e-5 * reference[name].norm() + 1e-8, name


def test_an_empty_micro_batch_weighs_nothing():
    batch = collate(examples_of([4, 5]), (), 0)
    assert len(batch.input_ids) == 1
    assert float(batch.weights.sum()) == 0


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_whole_vocabulary_has_the_losses_and_gradients_of_torchs_own(smoothing):
    torch.manual_seed(0)
    classes = MANY + 5
    logits = (30 * torch.randn(4, classes)).requires_grad_()  # some probabilities are below 1e-38
    targets, weights = torch.tensor([0, IGNORE_INDEX, 17, classes - 1]), torch.rand(4)
    right = torch.nn.functional.cross_entropy(
        logits, targets, reduction="none", label_smoothing=smoothing
    )
    (gradient,) = torch.autograd.grad((right * weights).sum(), logits)
    found = (cross_entropies(logits, targets, smoothing) * weights).sum()
    torch.testing.assert_close(found, (right * weights).sum())
    torch.testing.assert_close(torch.autograd.grad(found, logits)[0], gradient)
