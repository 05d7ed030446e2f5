"""The frozen probe of a run: what it reads, what it may cost, and what a run says of it."""

from __future__ import annotations

import io
import json
from collections import Counter

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from rich.console import Console

from peftkit import Data, HeadOnly, LoRA, TextClassification, TopLayers
from peftkit.bases.architectures import trained_share
from peftkit.data.encoded import Encoded, Examples
from peftkit.data.head import Head
from peftkit.data.rows import Row
from peftkit.evaluation import probe_rows
from peftkit.evaluation.features import FrozenBase, collect_features, read_features, try_features
from peftkit.evaluation.frozen_probe import ROW, STRENGTHS, Part, fit_probe
from peftkit.evaluation.lead import difference_interval, lead
from peftkit.evaluation.probe_rows import MOST_ROWS, draw
from peftkit.evaluation.scoring import evaluate
from peftkit.metrics.metric import Metric
from peftkit.reports.console import print_scores
from peftkit.reports.run_record import RunRecord
from peftkit.run import run
from peftkit.stages.plan import forward_tokens
from peftkit.stages.preparing import prepare
from peftkit.tasks.score import Parts, Score
from tests.conftest import sentences, write_csv
from tests.engines import engine_of
from tests.examples import examples_from

CPU = Accelerator(cpu=True)
SIZES = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 80,
    "intermediate_size": 48, "max_position_embeddings": 64,
}  # fmt: skip

HEAD = Head("", "SEQ_CLS", ("0", "1", "2"))


def base_with_head(kind: str, labels: int = 3, layout: str = "packed") -> FrozenBase:
    """A tiny random classifier of an architecture."""
    import transformers

    names = {"bert": "Bert", "roberta": "Roberta", "llama": "Llama", "modernbert": "ModernBert",
             "electra": "Electra"}  # fmt: skip
    ids = {} if kind in ("bert", "electra") else {"pad_token_id": 0, "bos_token_id": 1,
                                                  "eos_token_id": 2}  # fmt: skip
    config = getattr(transformers, f"{names[kind]}Config")(**SIZES, **ids, num_labels=labels)
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    model.config.pad_token_id = 0
    trunk = model.base_model_prefix
    head = tuple(name for name, module in model.named_children()
                 if name != trunk and any(True for _ in module.parameters()))  # fmt: skip
    return FrozenBase(head, engine_of(model, HEAD, layout, micro_batch_tokens=64))


def made_examples(count: int, labels: int = 3, seed: int = 0) -> Examples:
    random = np.random.default_rng(seed)
    ids = [random.integers(4, 80, size=random.integers(3, 15)) for _ in range(count)]
    rows = tuple(Row(n, {"text": f"row {n}", "label": str(n % labels)}) for n in range(count))
    return examples_from(ids, [n % labels for n in range(count)], rows=rows)


class TestFeatures:
    @pytest.mark.parametrize("kind", ["bert", "roberta", "electra", "llama"])
    def test_a_score_leaves_the_features_that_are_read_without_a_head(self, kind):
        base, examples = base_with_head(kind), made_examples(20)
        assert try_features(base, examples).while_scoring
        task = TextClassification(data=Data(path="-"))

        def scored():
            return evaluate(base.engine, examples, task)

        plain = scored()
        modules = [id(module) for module in base.model.modules()]
        with collect_features(base, examples) as seen:
            assert scored() == plain
        alone = read_features(base, examples)
        assert alone.shape == (20, 32)
        np.testing.assert_allclose(seen.features(), alone, rtol=0, atol=1e-6)
        assert [id(module) for module in base.model.modules()] == modules
        assert scored() == plain, "no hook is left"

    def test_each_example_has_its_own(self):
        base, examples = base_with_head("bert"), made_examples(9)
        whole = read_features(base, examples)
        for index in (0, 5, 8):
            alone = read_features(base, examples.chosen([index]))
            np.testing.assert_allclose(whole[[index]], alone, rtol=0, atol=1e-5)

    def test_a_norm_between_the_layers_needs_a_pass_of_its_own(self):
        base, examples = base_with_head("modernbert"), made_examples(5)
        assert try_features(base, examples) == try_features(base, examples)
        assert not try_features(base, examples).while_scoring
        assert not try_features(base, examples).failed
        assert read_features(base, examples).shape == (5, 32)

    def test_a_head_that_cannot_be_left_out_is_told(self):
        base = base_with_head("bert")
        base.model.classifier = torch.nn.Sequential(
            torch.nn.Linear(32, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 3)
        )
        failed = try_features(base, made_examples(4)).failed
        assert "the head cannot be left out: RuntimeError" in failed


class TestRows:
    def test_each_label_keeps_its_share(self):
        targets = [0] * 900 + [1] * 90 + [2] * 10 + [3]
        examples = made_examples(len(targets))
        object.__setattr__(examples, "targets", np.array(targets))
        chosen = draw(examples, 100, seed=0)
        assert len(chosen) <= 100
        assert list(chosen) == sorted(set(chosen))
        counts = Counter(targets[index] for index in chosen)
        assert counts == {0: 89, 1: 8, 2: 1, 3: 1}
        assert draw(examples, 100, seed=0) == chosen
        assert draw(examples, 100, seed=1) != chosen
        assert draw(examples, 5000, seed=0) == range(len(targets))

    def encoded(self, count):
        parts = [made_examples(n, seed=n) for n in (count, count // 5, count // 5)]
        return Encoded(*parts, head=Head("", "SEQ_CLS", ("0", "1", "2")), pad_token_id=0)

    def fitted(self, make_recipe, count, planned, monkeypatch, free=0.0):
        monkeypatch.setattr(probe_rows, "FREE", free)
        base, encoded = base_with_head("bert"), self.encoded(count)
        return probe_rows.probe_of_run(base, encoded, make_recipe(), None, planned, 10_000)

    def test_a_tenth_of_the_work_is_the_limit(self, make_recipe, monkeypatch):
        """A twentieth of the rows' tokens and the solver's work are what is left of it."""
        tokens = self.encoded(1000)
        whole = (tokens.train.num_tokens + tokens.validation.num_tokens) * 10_000
        whole += 2 * 500 * 1000 * 32 * 3
        test = tokens.test.num_tokens * 10_000
        some = self.fitted(make_recipe, 1000, 10 * (test + whole / 4) / 10_000, monkeypatch)
        assert some.fitted is not None
        assert some.rows == pytest.approx(250, abs=3)
        assert some.num_train == 1000
        none = self.fitted(make_recipe, 1000, 10 * test / 10_000, monkeypatch)
        assert none.fitted is None
        assert "10% is allowed" in none.left_out
        assert "on 15 rows it would take" in none.left_out

    def test_a_small_set_is_read_whole(self, make_recipe, monkeypatch):
        found = self.fitted(make_recipe, 60, 1.0, monkeypatch, free=1e11)
        assert found.rows == found.num_train == 60

    def test_of_equal_scores_the_one_with_the_lower_loss_is_taken(self, make_recipe):
        parts = []
        for seed in range(3):
            examples = made_examples(30, seed=seed)
            labels = examples.targets
            parts.append(Part(np.eye(3, dtype=np.float32)[labels], examples))
        found = fit_probe(parts, make_recipe().task, HEAD, "accuracy")
        assert sum(tried["value"] == 1.0 for tried in found.tried) > 3
        assert found.regularization == STRENGTHS[-1]  # the surest of all that are right

    def test_never_more_than_five_thousand(self, make_recipe, monkeypatch):
        found = self.fitted(make_recipe, MOST_ROWS + 500, 1e9, monkeypatch)
        assert MOST_ROWS - 3 <= found.rows <= MOST_ROWS

    def test_what_a_method_leaves_frozen_is_no_work(self, make_recipe):
        shares = {}
        for method in (LoRA(r=2), TopLayers(k=1), HeadOnly()):
            prepared = prepare(make_recipe(method, num_epochs=4))
            shares[method.kind()] = prepared.trained_share
            if method.kind() == "HeadOnly":
                once = prepared.encoded.train.num_tokens
                rest = forward_tokens(prepared.recipe, prepared.encoded, 0.0) - once
                assert rest == prepared.encoded.validation.num_tokens + 2 * (
                    prepared.encoded.test.num_tokens
                )
        assert shares == {"LoRA": 1.0, "TopLayers": 0.5, "HeadOnly": 0.0}

    def test_virtual_tokens_stand_below_all_blocks(self, bases):
        from peft import PromptTuningConfig, get_peft_model

        model = base_with_head("bert").model
        prompted = get_peft_model(model, PromptTuningConfig(task_type="SEQ_CLS",
                                                            num_virtual_tokens=2))  # fmt: skip
        assert trained_share(prompted) == 1.0


def judged(right: list[int], metrics: dict[str, float] | None = None) -> Score:
    """A score with so many right answers."""
    of = Parts((tuple(map(float, right)), (1.0,) * len(right)))
    accuracy = sum(right) / len(right)
    return Score(
        {"accuracy": accuracy, **(metrics or {})},
        {"accuracy": (accuracy - 0.02, accuracy + 0.02)},
        parts={"accuracy": of},
    )


class TestLead:
    encoded = Encoded(*[made_examples(7, 3)] * 3, head=Head("", "SEQ_CLS", ("ham", "b", "c")),
                      pad_token_id=0)  # fmt: skip

    def lead(self, after, majority=0.1, probe=None, before=0.0):
        made = None if probe is None else probe_rows.ProbeOfRun(
            "", probe_rows.FrozenProbe(1.0, [], probe, 3), 5, 7
        )  # fmt: skip
        baselines = {"majority": {"accuracy": majority}}
        task = TextClassification(data=Data(path="-"))
        start = Score({"accuracy": before}, {})
        return lead("accuracy", start, after, baselines, made, self.encoded, task)

    def test_nothing_where_both_are_beaten(self):
        assert self.lead(judged([1] * 90 + [0] * 10), 0.5, judged([1, 0] * 50)) == []

    def test_worse_than_before_training(self):
        (told,) = self.lead(judged([1] * 70 + [0] * 30), before=0.71)
        assert told == "worse than before training: accuracy 0.700, before 0.710"

    def test_always_one_answer_is_as_good(self):
        (told,) = self.lead(judged([1] * 997 + [0] * 3), 0.997)
        assert told == (
            "not better than a constant answer: accuracy 0.997; "
            "always answering `ham` gives 0.997 too"
        )
        (told,) = self.lead(judged([1] * 80 + [0] * 20), 0.79)
        assert "by more than chance: accuracy 0.800 (95 % interval 0.780 to 0.820)" in told
        assert told.endswith("; always answering `ham` gives 0.790")
        (told,) = self.lead(judged([1] * 70 + [0] * 30), 0.9)
        assert told.endswith("accuracy 0.700; always answering `ham` gives 0.900")

    def test_the_probe_is_as_good_or_better(self):
        random = np.random.default_rng(0)
        ours, others = (random.random((2, 600)) < 0.8).astype(int).tolist()
        (told,) = self.lead(judged(ours), probe=judged(others))
        assert told.startswith("not better than the frozen probe")
        assert "with 5 of its 7 training rows" in told
        (told,) = self.lead(judged([0] * 50 + [1] * 50), probe=judged([1] * 100))
        assert told.startswith("worse than the frozen probe")

    def test_the_interval_is_that_of_the_pairs(self):
        """Of 400 rows on which both fail or pass together, but for 20, the others tell nothing."""
        right = np.random.default_rng(0).random(400) < 0.7
        ours = right.astype(float)
        ours[:20] = 1.0
        others = right.astype(float)
        others[:20] = 0.0
        weights = (1.0,) * 400
        low, high = difference_interval(
            Parts((tuple(ours), weights)), Parts((tuple(others), weights)), Metric("accuracy")
        )
        half = 1.96 * (0.05 * 0.95 / 400) ** 0.5  # of a share of 5 %
        assert low == pytest.approx(0.05 - half, abs=0.005)
        assert high == pytest.approx(0.05 + half, abs=0.005)


@pytest.fixture(scope="module")
def both(make_recipe, tmp_path_factory):
    """The same run with and without the probe."""
    folder = tmp_path_factory.mktemp("runs")
    recipe = make_recipe(LoRA(r=4), learning_rate=1e-5, num_epochs=1)
    return {flag: run(recipe, str(folder / str(flag)), frozen_probe=flag) for flag in (True, False)}


class TestRun:
    def test_it_changes_nothing_of_the_training(self, both):
        files = [of.folder / "adapter/adapter_model.safetensors" for of in both.values()]
        assert files[0].read_bytes() == files[1].read_bytes()
        assert both[True].record.training.history == both[False].record.training.history
        assert both[False].record.test.probe is None
        assert ROW not in both[False].record.test.baseline

    def test_it_stands_in_the_record_the_table_and_the_receipt(self, both):
        record = json.loads((both[True].folder / "run.json").read_text())
        scores = record["test"]["baseline"][ROW]
        assert scores["accuracy"] > 0.9, "a few words decide the label"
        assert set(scores) >= {"accuracy", "macro_f1", "weighted_f1", "loss"}
        assert record["test"]["probe"]["rows"] == 140
        assert record["seconds"]["probe"] > 0
        assert any("worse than the frozen probe" in told for told in record["test"]["lead"])
        out = Console(file=io.StringIO(), width=200)
        print_scores(out, RunRecord.from_json(record))
        lines = out.file.getvalue().splitlines()
        assert "not better than a constant answer" in lines[0]
        assert any(line.split()[:2] == ["frozen", "probe"] for line in lines)
        page = (both[True].folder / "receipt.html").read_text()
        assert page.index("Worse than the frozen probe") < page.index("unseen rows")

    def test_a_model_of_ones_own_text_has_none(self, make_chat, tmp_path):
        record = run(make_chat(max_steps=1), str(tmp_path / "out")).record
        assert record.test.probe is None
        assert record.test.lead == ()
        assert "probe" not in record.seconds


def test_a_task_of_two_texts_and_weights(bases, tmp_path, make_recipe):
    """Pairs, weighted rows and a decoder as the base."""
    rows = [(text, "the film", label) for text, label in sentences(80)]
    file = write_csv(tmp_path / "pairs.csv", rows, ("text", "second", "label"))
    task = TextClassification(
        data=Data(path=str(file), text_pair="second"), class_weights="balanced", pooling="mean"
    )
    record = run(make_recipe(LoRA(r=2), base="llama", task=task, max_steps=1),
                 str(tmp_path / "out")).record  # fmt: skip
    assert record.test.probe.rows == record.ledger.splits["train"].rows
    assert record.test.baseline[ROW]["loss"] > 0
