"""The model card: README.md of an adapter, as the Hub shows it."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import jinja2

from peftkit.adapters.base_origin import (
    dequantized_folder,
    loading_arguments,
    origin,
    packaged_base,
    repository,
)
from peftkit.adapters.pooled_code import adapter_code, model_code
from peftkit.adapters.record import Record
from peftkit.data.encoded import Head

PIPELINE_TAGS = {
    "SEQ_CLS": "text-classification",
    "TOKEN_CLS": "token-classification",
    "QUESTION_ANS": "question-answering",
    "CAUSAL_LM": "text-generation",
    "SEQ_2_SEQ_LM": "text2text-generation",
}

VALIDATED = "validation, step"
"""Begins the name of the scores of an adapter whose training was interrupted."""
TEMPLATE = """\
---
{% if repository %}base_model: {{ repository }}
{% endif %}library_name: {{ library }}
pipeline_tag: {{ pipeline_tag }}
tags:
- peftkit
- {{ record.recipe.method.kind | lower }}
---

# {{ name }}

{{ record.recipe.method.kind }} on `{{ base }}` for {{ record.recipe.task.kind }}\
{% if labels %} ({{ labels }}){% endif %}, trained with \
[peftkit](https://pypi.org/project/peftkit/) {{ record.versions.peftkit }}.

{% if record.rewound %}Rewound by `peftkit rewind` to {{ "%g" | format(record.rewound.scale) }} \
of the strength that was trained: {{ source }}.

{% endif %}{% if unfinished %}Not finished: a signal interrupted the training. These are the best \
validated weights until then; they were not scored on the test split.

{% endif %}| {{ "scores" if unfinished else "test split" }} | {{ metrics | join(" | ") }} |
|---|{% for _ in metrics %}---:|{% endfor %}
{% for row, scores in record.metrics.items() -%}
| {{ row }} |{% for metric in metrics %} \
{{ "%.4f" | format(scores[metric]) if metric in scores else "" }} |{% endfor %}
{% endfor %}
## Use

The base is {{ where }}.{% if folder %} {{ folder }}

{% else %} {% endif %}With peftkit, which checks the base, the files and the answers:

```bash
peftkit {{ command }} path/to/this/folder{{ base_option }}\
{% if command == "predict" %} --text "..."{% endif %}
```

{% if pooled -%}
{{ pooled }}
{%- elif library == "peft" -%}
{% if plugin -%}
With PEFT, to which peftkit adds this kind of adapter; without the first line, PEFT says
`KeyError: 'BOTTLENECK'` (`pip install peftkit`):

```python
import peftkit.peft_plugin
{% else -%}
With PEFT alone:

```python
{% endif -%}
from peft import PeftModel
from transformers import {{ head.auto_class }}{{ further_imports }}

{{ config }}base = {{ head.auto_class }}.from_pretrained("{{ base_path }}"{{ options }})
model = PeftModel.from_pretrained(base, "path/to/this/folder").eval()
{{ float32_kernels }}```
{%- if virtual %}

If the base is a decoder, give it texts of one length at a time, or one by one: in a batch with
padding, PEFT alone counts the padding between the virtual tokens and the text.
{%- endif %}
{%- elif library == "transformers" -%}
With transformers alone:

```python
from transformers import {{ head.auto_class }}

model = {{ head.auto_class }}.from_pretrained("path/to/this/folder").eval()
```
{%- else -%}
`trained.safetensors` holds exactly the trained tensors, under their names in the model:

```python
from safetensors.torch import load_file
from transformers import {{ head.auto_class }}{{ further_imports }}

{{ config }}model = {{ head.auto_class }}.from_pretrained("{{ base_path }}"{{ options }})
model.load_state_dict(load_file("path/to/this/folder/trained.safetensors"), strict=False)
model.eval()
{{ float32_kernels }}```
{%- endif %}
{%- if added and library != "transformers" and not pooled %}

The vocabulary has tokens more than the base's, {{ added }}. The tokenizer is in this folder, and
`added_tokens.safetensors` has their embeddings; put them into `{{ variable }}`\
{% if library == "peft" %} before the adapter{% endif %}:

```python
from safetensors.torch import load_file
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
rows_needed = max(len(tokenizer), {{ variable }}.config.vocab_size)
{{ variable }}.resize_token_embeddings(rows_needed)
ids = tokenizer.convert_tokens_to_ids([{{ added_list }}])
for name, rows in load_file("path/to/this/folder/added_tokens.safetensors").items():
    layer = getattr({{ variable }}, f"get_{name}_embeddings")()
    layer.weight.data[ids] = rows.to(layer.weight)
```
{%- endif %}
{%- if prompt %}

The tokenizer, the chat template and the settings by which it stops are in this folder:

```python
from transformers import AutoTokenizer, GenerationConfig

tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
{{ prompt }}model.generation_config = GenerationConfig.from_pretrained("path/to/this/folder")
answer = model.generate(**prompt)
print(tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))
```
{%- endif %}
{% if labels %}
The classes, in the order of the logits: {{ labels }}.
{% endif %}
## Training

The recipe, the digests of base, tokenizer and weights, and probes that prove the adapter was
loaded rightly are in `peftkit.json`. Versions: {{ versions }}.
"""

FLOAT32_KERNELS = """\
for module in model.modules():  # else bitsandbytes repacks 4-bit weights on some CPUs, and rounds
    if hasattr(module, "support_avx512bf16_for_cpu"):
        module.support_avx512bf16_for_cpu = False
"""


def _config_options(record: Record) -> list[str]:
    """Keyword arguments of `from_pretrained` that are about the configuration."""
    labels = [f"num_labels={len(record.head.labels)}"] if record.head.labels else []
    return [*labels, *loading_arguments(record.base)[1]]


def _config_code(record: Record, base_path: str) -> str:
    """Code that says which layers of a base that is quantized already are new and are not."""
    if record.base["quantization"] != "none" or not record.base["unquantized"]:
        return ""
    options = "".join(f", {option}" for option in _config_options(record))
    return (
        f'config = AutoConfig.from_pretrained("{base_path}"{options})\n'
        f'config.quantization_config["llm_int8_skip_modules"] = '
        f"{json.dumps(record.base['unquantized'])}\n"
    )


def _load_options(record: Record) -> list[str]:
    """Keyword arguments of `from_pretrained` that give the base as it was trained on."""
    if _config_code(record, ""):
        return ["config=config"]
    options = _config_options(record)
    kind = record.base["quantization"]
    if kind != "none":
        eight, four = "load_in_8bit=True", f'load_in_4bit=True, bnb_4bit_quant_type="{kind}"'
        four += ", bnb_4bit_use_double_quant=True" if record.base["double_quant"] else ""
        skipped = json.dumps(record.base["unquantized"])
        kept = f", llm_int8_skip_modules={skipped}" if record.base["unquantized"] else ""
        arguments = f"{eight if kind == 'int8' else four}{kept}"
        options.append(f"quantization_config=BitsAndBytesConfig({arguments})")
    return options


@functools.cache
def _template() -> jinja2.Template:
    return jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(TEMPLATE)


def write_card(folder: Path, name: str, record: Record, command: str, prompt: str) -> None:
    """Writes README.md; it holds no rows of data and no local paths.

    Args:
        command: of peftkit, by which the model is asked.
        prompt: code that makes what the model goes on with; empty where it does not write.
    """
    head: Head = record.head
    base = record.base
    known = base["hub_id"] or base["name"]
    reachable = bool(base["hub_id"] or packaged_base(base))
    revision = f" at revision `{base['revision']}`" if base["revision"] else ""
    files = ", ".join(f"`{n}` {d[:12]}" for n, d in base["files"].items())
    where = f"`{known}`{revision} (SHA-256 of its files: {files})"
    if not reachable:
        where += "; it was a local file or folder, which you need too"
    if told := origin(base):
        where += f": {told}"
    library = "peft" if (folder / "adapter_config.json").is_file() else "other"
    if whole := (folder / "config.json").is_file():
        library = "transformers"
    pooled = ""
    if head.pooling:
        library = "peftkit"  # those who read this would load it with the architecture's own head
        pooled = model_code(head.pooling) if whole else adapter_code(head.pooling, reachable)
    base_path, _ = loading_arguments(base)
    config = _config_code(record, base_path)
    imports = ", AutoConfig" if config else ""
    imports += "" if base["quantization"] == "none" else ", BitsAndBytesConfig"
    method = record.recipe["method"]
    added = record.recipe["base"]["added_tokens"]
    four_bits = record.recipe["base"]["quantization"] in ("nf4", "fp4")
    text = _template().render(
        record=record,
        unfinished=any(row.startswith(VALIDATED) for row in record.metrics),
        name=name,
        base=known,
        head=head,
        labels=", ".join(f"`{label}`" for label in head.labels),
        source=", ".join(
            f"`{n}` with the SHA-256 {d[:12]}" for n, d in record.rewound.get("from", {}).items()
        ),
        metrics=[m for m in list(record.metrics.values())[-1] if m != "loss"],
        library=library,
        pooled=pooled,
        command=command,
        prompt=prompt,
        plugin=method["kind"] == "BottleneckAdapter",
        virtual=library == "peft" and "num_virtual_tokens" in method.get("config", method),
        added=", ".join(f"`{token}`" for token in added),
        variable="base" if library == "peft" else "model",
        added_list=", ".join(f"{token!r}" for token in added),
        pipeline_tag=PIPELINE_TAGS.get(head.task_type, head.task_type.lower()),
        repository=repository(base),
        where=where,
        folder=dequantized_folder(base) if library != "transformers" and not pooled else "",
        base_option="" if reachable else " --base path/to/the/base",
        base_path=base_path,
        config=config,
        float32_kernels=FLOAT32_KERNELS if four_bits else "",
        options="".join(f", {option}" for option in _load_options(record)),
        further_imports=imports,
        versions=", ".join(f"{package} {version}" for package, version in record.versions.items()),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
