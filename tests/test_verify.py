"""Adapters that are not what they say are refused with the cause; those that are, pass."""

from __future__ import annotations

import json
import os
import resource
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import peftkit as pk
from peftkit.adapters.inspection.hazards import wrong_settings, wrong_template
from peftkit.adapters.inspection.inspecting import inspect
from peftkit.adapters.verifying import verify
from peftkit.errors import AdapterError
from peftkit.run import run

METHODS = {
    "LoRA": pk.LoRA(r=4),
    "PrefixTuning": pk.PrefixTuning(num_virtual_tokens=4),
    "BottleneckAdapter": pk.BottleneckAdapter(),
    "HeadOnly": pk.HeadOnly(),
}
TENSORS = 6
"""Of each adapter, so many tensors are changed in each way."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory, bases, reviews):
    """One adapter folder of each method."""
    folder = tmp_path_factory.mktemp("runs")
    found = {}
    for kind, method in METHODS.items():
        recipe = pk.Recipe(
            base=pk.Base(name_or_path=str(bases["bert"])),
            task=pk.TextClassification(data=pk.Data(path=str(reviews))),
            method=method,
            training=pk.Training(max_steps=2, batch_size=8, learning_rate=5e-3),
        )
        found[kind] = run(recipe, str(folder / kind)).folder
    return found


@pytest.fixture
def copy(saved, tmp_path):
    def make(kind: str) -> Path:
        shutil.rmtree(tmp_path / kind, ignore_errors=True)
        shutil.copytree(saved[kind], tmp_path / kind)
        return tmp_path / kind / "adapter"

    return make


Change = Callable[[Path], None]


def weights_of(folder: Path) -> Path:
    return next(iter(sorted(folder.glob("*.safetensors"))))


def with_tensors(change: Callable[[dict[str, Any], str], Any], name: str) -> Change:
    def apply(folder: Path) -> None:
        tensors = load_file(file := weights_of(folder))
        change(tensors, name)
        save_file(tensors, file, metadata={"format": "pt"})

    return apply


def put(value: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict[str, Any], str], None]:
    def change(tensors: dict[str, Any], name: str) -> None:
        tensors[name] = value(tensors[name].clone()).contiguous()

    return change


def first_is(number: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(-1)[0] = number
        return tensor

    return change


def rename(tensors: dict[str, Any], name: str) -> None:
    tensors[f"{name}_"] = tensors.pop(name)


def add(tensors: dict[str, Any], name: str) -> None:
    tensors[f"{name}.more"] = torch.ones(3)


def flip_bit(name: str, bit: int) -> Change:
    def apply(folder: Path) -> None:
        (tensors,) = (t for f, t in inspect(str(folder)).tensors.items() if name in t)
        file = weights_of(folder)
        with file.open("r+b") as opened:
            opened.seek(tensors[name].begin + bit // 8)
            byte = opened.read(1)[0]
            opened.seek(-1, 1)
            opened.write(bytes([byte ^ 1 << bit % 8]))

    return apply


def edit(file: str, *path: str, value: Any) -> Change:
    def apply(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        at = content
        for key in path[:-1]:
            at = at[key]
        assert at.get(path[-1]) != value
        at[path[-1]] = value
        (folder / file).write_text(json.dumps(content))

    return apply


def cut(share: float) -> Change:
    def apply(folder: Path) -> None:
        data = (file := weights_of(folder)).read_bytes()
        file.write_bytes((data + data)[: int(len(data) * share)])

    return apply


def drop_head(folder: Path) -> None:
    tensors = load_file(file := weights_of(folder))
    left = {n: t for n, t in tensors.items() if "classifier" not in n}
    assert len(left) < len(tensors)
    save_file(left, file, metadata={"format": "pt"})


def mutations(adapter: Path) -> Iterator[tuple[str, Change, str]]:
    """Name, how to make it, what must be said of it."""
    names = sorted(load_file(weights_of(adapter)))
    for name in names[:: max(1, len(names) // TENSORS)][:TENSORS]:
        yield f"drop {name}", with_tensors(dict.pop, name), f"`{name}` is missing"
        yield f"rename {name}", with_tensors(rename, name), f"`{name}` is missing; `{name}_` has"
        yield f"add {name}", with_tensors(add, name), f"`{name}.more` was not there"
        turned = put(lambda t: t.reshape(-1, 1))
        yield f"reshape {name}", with_tensors(turned, name), f"`{name}` is F32 of shape"
        yield f"half {name}", with_tensors(put(torch.Tensor.half), name), f"`{name}` is F16 of"
        for number in (float("nan"), float("inf")):
            change = with_tensors(put(first_is(number)), name)
            yield f"{number} {name}", change, f"`{name}` holds numbers that are not finite"
        yield f"zero {name}", with_tensors(put(torch.zeros_like), name), f"`{name}` holds zeros"
        yield f"flip {name}", flip_bit(name, 5), f"`{name}` holds other values"
    yield "no head", drop_head, "classifier"
    for share in (0.0, 0.5, 0.99):
        yield f"cut to {share}", cut(share), "is damaged"
    yield "longer", cut(1.1), "is damaged"
    yield "gone", lambda folder: weights_of(folder).unlink(), "no .safetensors file"
    yield "labels", edit("peftkit.json", "head", "labels", value=["x", "y"]), "peftkit.json was"
    yield "task", edit("peftkit.json", "head", "task_type", value="CAUSAL_LM"), "peftkit.json was"
    if (adapter / "adapter_config.json").is_file():
        config = "adapter_config.json"
        for field, value in {
            "peft_type": "IA3", "task_type": "CAUSAL_LM", "lora_alpha": 99, "use_rslora": True,
            "r": 5, "target_modules": ["query"], "num_virtual_tokens": 5, "use_dora": True,
        }.items():  # fmt: skip
            if field in json.loads((adapter / config).read_text()):
                yield field, edit(config, field, value=value), f"`{field}` in adapter_config.json"


@pytest.mark.parametrize("kind", METHODS)
def test_every_mutation_is_refused_with_its_cause(saved, copy, kind):
    listed = list(mutations(saved[kind] / "adapter"))
    assert len({name for name, _, _ in listed}) == len(listed)
    for name, change, cause in listed:
        change(folder := copy(kind))
        problems = inspect(str(folder)).findings.problems
        assert any(cause in problem.found for problem in problems), (name, problems)


def test_there_are_two_hundred_of_them(saved):
    counts = [len(list(mutations(folder / "adapter"))) for folder in saved.values()]
    assert sum(counts) + len(METHODS) * 4 >= 200, counts  # four other bases


@pytest.mark.parametrize("kind", METHODS)
def test_what_was_saved_passes(saved, kind):
    findings = verify(str(saved[kind]))
    assert not findings.problems
    assert [f.check for f in findings.all] == [
        "files", *(["settings"] if kind != "HeadOnly" else []), "weights", "digests", "base",
        "tokenizer", "tensors", "answers", "effect",
    ]  # fmt: skip
    assert all(finding.result == "ok" for finding in findings.all)


@pytest.fixture(scope="module")
def wrong_bases(tmp_path_factory, bases):
    """Other bases: cause -> folder."""
    from transformers import AutoModel, BertConfig

    folder = tmp_path_factory.mktemp("bases")
    config = BertConfig.from_pretrained(bases["bert"])
    made = {}
    for cause, change in {
        "is not the base of this adapter": {},
        "has 1 layers": {"num_hidden_layers": config.num_hidden_layers - 1},
        "has 3 layers": {"num_hidden_layers": config.num_hidden_layers + 1},
    }.items():
        made[cause] = folder / str(len(made))
        shutil.copytree(bases["bert"], made[cause])
        torch.manual_seed(3)
        other = BertConfig(**{**config.to_dict(), **change})
        AutoModel.from_config(other).save_pretrained(made[cause])
    made["the tokenizer of"] = folder / "tokenizer"
    shutil.copytree(bases["bert"], made["the tokenizer of"])
    file = made["the tokenizer of"] / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["warm"], vocabulary["cold"] = vocabulary["cold"], vocabulary["warm"]
    file.write_text(json.dumps(content))
    return made


@pytest.mark.parametrize("kind", METHODS)
def test_another_base_is_told(saved, wrong_bases, kind):
    for cause, base in wrong_bases.items():
        (problem,) = verify(str(saved[kind]), str(base)).problems
        assert cause in problem.found


HOSTILE = {
    "megatron": ("adapter_config.json", {"megatron_core": "os"}, "`megatron_core` is 'os'"),
    "mapping": (
        "adapter_config.json", {"auto_mapping": {"parent_library": "os"}}, "`auto_mapping` names"
    ),
    "replication": ("adapter_config.json", {"layer_replication": [[0, 4000]]}, "4,000 layers"),
    "rank": ("adapter_config.json", {"r": 10_000_000}, "`r` is 10,000,000"),
    "pattern": ("adapter_config.json", {"target_modules": "(a+)+b"}, "repeats within repeats"),
    "base": ("adapter_config.json", {"base_model_name_or_path": "../../etc"}, "leads elsewhere"),
    "nul": ("adapter_config.json", {"base_model_name_or_path": "a\0b"}, "leads elsewhere"),
    "names": ("peftkit.json", {"weights": {"../../x": ""}}, "names files elsewhere"),
    "template": (
        "tokenizer_config.json",
        {"chat_template": "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}"
                          "{% endfor %}"},
        "loops over ranges",
    ),
}  # fmt: skip
WATCH = """
import os, sys
opened, forbidden = [], []
def hook(event, arguments):
    if event == "open" and isinstance(arguments[0], str): opened.append(arguments[0])
    if event in ("os.system", "subprocess.Popen", "os.exec", "socket.connect"):
        forbidden.append(event)
    if event == "import" and arguments[0] in ("torch", "peft", "transformers", "jinja2"):
        forbidden.append(arguments[0])
sys.addaudithook(hook)
from peftkit.cli.main import command_line
code = 0
try:
    command_line(["verify", sys.argv[1], "--json"])
except SystemExit as end:
    code = end.code
places = (sys.argv[1], sys.prefix, sys.base_prefix, sys.argv[2], "/proc", "/dev")
allowed = tuple(map(os.path.realpath, places))
elsewhere = [f for f in opened if not os.path.realpath(f).startswith(allowed)]
(peak,) = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(code, int(peak) / 1024, forbidden, elsewhere)
"""


def hostile_folder(folder: Path, name: str) -> Path:
    if name in HOSTILE:
        file, change, _ = HOSTILE[name]
        path = folder / file
        content = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps({**content, **change}))
    elif name == "pickle":
        weights_of(folder).unlink()
        (folder / "adapter_model.bin").write_bytes(b"cos\nsystem\n(S'touch /tmp/ran'\ntR.")
    else:
        claims = {"header": 300_000_000, "tensor name": 0}
        header = json.dumps(
            {"../../x\0": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
        ).encode()
        length = claims[name] or len(header)
        weights_of(folder).write_bytes(struct.pack("<Q", length) + header + bytes(4))
    return folder


def cpu_seconds() -> float:
    """Of the programs that were started; the clock on the wall shows what else the machine does."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("name", [*HOSTILE, "pickle", "header", "tensor name"])
def test_hostile_adapters_are_refused_before_anything_is_loaded(copy, name):
    folder = hostile_folder(copy("LoRA"), name)
    start = cpu_seconds()
    done = subprocess.run(
        [sys.executable, "-c", WATCH, str(folder), str(Path(pk.__file__).parent)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    seconds = cpu_seconds() - start
    told, last = done.stdout.splitlines()
    expected = HOSTILE[name][2] if name in HOSTILE else {
        "pickle": "is a pickle", "header": "claims a header", "tensor name": "is no name",
    }[name]  # fmt: skip
    problems = [f["found"] for f in json.loads(told)["findings"] if f["result"] == "wrong"]
    assert any(expected in found for found in problems), problems
    code, memory, rest = last.split(maxsplit=2)
    assert code == "1"
    assert float(memory) < 150
    assert seconds < 2
    assert rest == "[] []"


@pytest.mark.parametrize(
    ("pattern", "refused"),
    [
        (r".*\.layers\.(0|1|2)\.self_attn\.(q|k|v)_proj", False),
        (r"^(?!.*lm_head).*(query|value)$", False),
        (r"model\.layers\.\d+\.mlp\..*", False),
        (r"(?:.*\.)?(q|v)_proj", False),
        (r".*\.(\d|1\d)\..*\.(fc1|fc2|k_proj)$", False),
        (r"(a|aa)+$", True),
        (".?" * 33 + "!!", True),
        ("(a|aa)" * 40, True),
        ("a{0,8}" * 60, True),
        (r"(\d|1\d)" * 40, True),
        (r"(.*)*x", True),
        (r"((a{2,9}){2,9}){2,9}", True),
        (r"(x", True),
        (".*a" * 9, True),
        ("a" * 3000, True),
    ],
)
def test_patterns_that_take_for_ever_are_told_from_others(pattern, refused):
    assert bool(list(wrong_settings({"target_modules": pattern}))) is refused


def test_the_templates_in_use_pass():
    templates = list((Path(pk.__file__).parent / "bases/templates").iterdir())
    assert templates
    for template in templates:
        assert not list(wrong_template(template.read_text()))
    assert list(wrong_template("{{ 'a' * 99999999 }}"))
    assert list(wrong_template("{{ 9 ** 9 }}"))
    assert list(wrong_template("{{ 'x' * 9999 * 9999 }}"))
    assert list(wrong_template("{% set r = range %}{%+ for a in r(99999) %}{% endfor %}"))
    assert not list(wrong_template("{# {{ 99999999 }} #}{% if x > 100000 %}{% endif %}"))
    assert not list(wrong_template("{{ 'in 99999999' }}"))


def damage(folder: Path, name: str) -> None:
    """Content of kinds that no tool writes."""
    file = weights_of(folder)
    if name == "link to itself":
        (folder / "loop").symlink_to(folder / "loop")
    elif name == "link to elsewhere":
        (folder / "x.json").symlink_to("/etc/passwd")
    elif name == "folder for a file":
        (folder / "x.jinja").mkdir()
    elif name == "pipe":
        os.mkfifo(folder / "x.safetensors")
    elif name == "header of a number":
        file.write_bytes(struct.pack("<Q", 1) + b"5")
    elif name == "pickle beside other weights":
        file.rename(folder / "x.safetensors")
        (folder / "adapter_model.bin").touch()
    else:
        value: Any = {
            "tensors": {"adapter_model.safetensors": {"a": 5}}, "weights": {"x" * 300: ""},
            "configs": 5,
        }[name]  # fmt: skip
        edit("peftkit.json", name, value=value)(folder)


@pytest.mark.parametrize(
    "name",
    ["link to itself", "link to elsewhere", "folder for a file", "pipe", "header of a number",
     "pickle beside other weights", "tensors", "weights", "configs"],
)  # fmt: skip
def test_damage_is_told_without_a_traceback(copy, name):
    damage(folder := copy("LoRA"), name)
    assert inspect(str(folder)).findings.problems


@pytest.mark.parametrize(
    "settings",
    [
        {"lora_alpha": 10**400}, {"rank_pattern": "abc"}, {"task_type": []}, {"peft_type": 5},
        {"layer_replication": [[0, 32]] * 1000 + [[32000, 0]]}, {"layers_pattern": ["(a+)+$"]},
        {"feedforward_modules": "(a+)+$"}, {"modules_to_save": ["("]}, {"r": "8"},
        {"peft_type": "\ud800\u001b[2J"},
    ],
    ids=lambda settings: next(iter(settings)),
)  # fmt: skip
def test_settings_of_odd_kinds_are_told_without_a_traceback(copy, settings, capsys):
    from peftkit.cli.main import command_line

    file = copy("LoRA") / "adapter_config.json"
    (file.parent / "peftkit.json").unlink()
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    with pytest.raises(SystemExit) as caught:
        command_line(["verify", str(file.parent)])
    assert caught.value.code == 1
    said = capsys.readouterr().out
    assert "do not use it" in said
    assert "\x1b[2J" not in said


def test_what_is_no_adapter_ends_with_two(tmp_path, saved, capsys):
    from peftkit.cli.main import command_line

    (tmp_path / "empty").mkdir()
    for path, said in ((tmp_path / "empty", "holds no adapter"), (tmp_path / "emtpy", "no folder")):
        with pytest.raises(SystemExit) as caught:
            command_line(["verify", str(path)])
        assert caught.value.code == 2
        assert said in capsys.readouterr().err
    with pytest.raises(AdapterError, match="holds no adapter"):
        verify(str(tmp_path / "empty"))


@pytest.fixture(scope="module")
def causal(bases, chat_base):
    """Bases by the names of `plain`."""
    return {**bases, "llama": chat_base}


@pytest.fixture(scope="module")
def plain(tmp_path_factory, causal):
    """What plain PEFT leaves of a causal Llama and of a classifying BERT: name -> folder."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    folder = tmp_path_factory.mktemp("plain")
    for name, kind, base, task in (
        ("llama", AutoModelForCausalLM, "llama", "CAUSAL_LM"),
        ("bert", AutoModelForSequenceClassification, "bert", "SEQ_CLS"),
    ):
        torch.manual_seed(0)
        config = LoraConfig(r=4, target_modules="all-linear", task_type=task)
        model = get_peft_model(kind.from_pretrained(causal[base]), config)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.normal_(std=0.1)
        model.save_pretrained(folder / name)
        ids = torch.tensor([[2, 9, 11, 14, 3]])
        torch.save(model.eval()(input_ids=ids).logits, folder / f"{name}.pt")
    return folder


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_what_plain_peft_saved_loads_and_is_explained(plain, causal, name):
    findings = verify(str(plain / name), str(causal[name]))
    assert not findings.problems
    told = {finding.check: finding for finding in findings.all}
    assert told["record"].result == told["base"].result == "note"
    assert told["tensors"].result == told["effect"].result == "ok"
    adapter = pk.load(str(plain / name), str(causal[name]))
    ids = torch.tensor([[2, 9, 11, 14, 3]])
    found = adapter.model(input_ids=ids).logits
    torch.testing.assert_close(found, torch.load(plain / f"{name}.pt"), rtol=0, atol=1e-6)
    (answer,) = adapter.predict(["a warm film"])
    assert answer


def with_config(source: Path, target: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    shutil.copytree(source, target)
    config = json.loads((file := target / "adapter_config.json").read_text())
    change(config)
    file.write_text(json.dumps(config))
    return target


def test_an_older_and_a_newer_config_are_explained(plain, causal, tmp_path):
    kept = (
        "peft_type", "task_type", "r", "lora_alpha", "lora_dropout", "target_modules", "bias",
        "fan_in_fan_out", "inference_mode", "modules_to_save", "base_model_name_or_path",
    )  # fmt: skip
    older = with_config(
        plain / "llama", tmp_path / "older",
        lambda c: [c.pop(name) for name in list(c) if name not in kept],
    )  # fmt: skip
    findings = verify(str(older), str(causal["llama"]))
    assert not findings.problems
    assert any("an earlier PEFT saved it" in finding.meaning for finding in findings.all)
    newer = with_config(
        plain / "llama", tmp_path / "newer", lambda c: c.update(sparkle=None, peft_version="9.0")
    )
    findings = verify(str(newer), str(causal["llama"]))
    assert not findings.problems
    assert any("`sparkle` is None" in finding.found for finding in findings.all)
    changed = with_config(plain / "llama", tmp_path / "changed", lambda c: c.update(sparkle=0.5))
    (problem,) = verify(str(changed), str(causal["llama"])).problems
    assert "`sparkle` is 0.5" in problem.found


def test_a_base_that_the_hub_does_not_give_is_no_fault_of_the_adapter(plain, tmp_path):
    named = with_config(
        plain / "llama", tmp_path / "a", lambda c: c.update(base_model_name_or_path="no/such-model")
    )
    findings = verify(str(named))
    assert not findings.problems
    assert "tensors and answers were not checked" in findings.all[-1].meaning
    with pytest.raises(pk.PeftkitError, match="the Hub does not give it"):
        pk.load(str(named))


def test_a_dead_path_of_the_base_asks_for_it(plain, causal, tmp_path):
    dead = with_config(
        plain / "llama", tmp_path / "dead",
        lambda c: c.update(base_model_name_or_path="/home/someone/models/llama"),
    )  # fmt: skip
    (problem,) = verify(str(dead)).problems
    assert "a folder on the machine where it was trained" in problem.found
    assert "--base" in problem.advice
    assert not verify(str(dead), str(causal["llama"])).problems


def test_an_adapter_of_other_layers_or_without_its_head_is_told(plain, causal, tmp_path):
    shutil.copytree(plain / "llama", tmp_path / "more")
    tensors = load_file(file := weights_of(tmp_path / "more"))
    extra = {n.replace("layers.1.", "layers.7."): t.clone() for n, t in tensors.items()}
    save_file({**tensors, **extra}, file)
    (problem,) = verify(str(tmp_path / "more"), str(causal["llama"])).problems
    assert "layers.7" in problem.found
    shutil.copytree(plain / "bert", tmp_path / "headless")
    tensors = load_file(file := weights_of(tmp_path / "headless"))
    save_file({n: t for n, t in tensors.items() if "classifier" not in n}, file)
    (problem,) = verify(str(tmp_path / "headless"), str(causal["bert"])).problems
    assert "no tensor of the classifier" in problem.found
