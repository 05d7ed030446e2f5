"""The model card: an adapter's README.md, as the Hub shows it."""

from __future__ import annotations

import functools
from pathlib import Path

import jinja2

from peftkit.adapters.base_code import base_code
from peftkit.adapters.base_origin import dequantized_folder, origin, packaged_base, repository
from peftkit.adapters.pooled_code import adapter_code, model_code
from peftkit.adapters.record import Record
from peftkit.bases.fingerprint import RecordedBase
from peftkit.data.head import Head
from peftkit.tasks.input_options import flag
from peftkit.tasks.task import Task

VALIDATED = "validation, step"
"""Prefix of the `Record.metrics` key for an interrupted run's validation scores."""
TEMPLATE = """\
---
{% if repository %}base_model: {{ repository }}
{% endif %}library_name: {{ library }}
pipeline_tag: {{ pipeline_tag }}
tags:
- peftkit
- {{ record.recipe.method | lower }}
---

# {{ name }}

{{ record.recipe.method }} on `{{ base }}` for {{ record.recipe.task }}\
{% if labels %} ({{ labels }}){% endif %}, trained with \
[peftkit](https://pypi.org/project/peftkit/) {{ record.versions.peftkit }}.

{% if record.rewound %}Rewound by `peftkit rewind` to {{ "%g" | format(record.rewound.scale) }} \
of the trained strength: {{ source }}.

{% endif %}{% if unfinished %}Not finished: a signal interrupted training. These are the best \
validated weights up to then; they were not scored on the test split.

{% endif %}| {{ "scores" if unfinished else "test split" }} | {{ metrics | join(" | ") }} |
|---|{% for _ in metrics %}---:|{% endfor %}
{% for row, scores in record.metrics.items() -%}
| {{ row }} |{% for metric in metrics %} \
{{ "%.4f" | format(scores[metric]) if metric in scores else "" }} |{% endfor %}
{% endfor %}
## Use

The base is {{ where }}.{% if folder %} {{ folder }}

{% else %} {% endif %}With peftkit, which checks base, files and answers:

```bash
peftkit {{ command }} path/to/this/folder{{ base_option }}\
{% if command == "predict" %}{% for option in asked %} {{ option }} "..."{% endfor %}{% endif %}
```

{% if pooled -%}
{{ pooled }}
{%- elif library == "peft" -%}
{% if plugin -%}
With PEFT, to which peftkit adds this type of adapter; without the first line, PEFT raises
`KeyError: 'BOTTLENECK'` (`pip install peftkit`):

```python
import peftkit.peft_plugin
{% else -%}
With PEFT alone:

```python
{% endif -%}
from peft import PeftModel
from transformers import {{ head.auto_class }}{{ code.imports }}

{{ code.config }}base = {{ head.auto_class }}.from_pretrained("{{ code.path }}"{{ code.options }})
model = PeftModel.from_pretrained(base, "path/to/this/folder").eval()
{{ code.float32_kernels }}```
{%- if virtual %}

If the base is a decoder, batch only texts of equal length, or run them one by one: in a padded
batch, PEFT alone counts the padding between the virtual tokens and the text.
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
from transformers import {{ head.auto_class }}{{ code.imports }}

{{ code.config }}model = {{ head.auto_class }}.from_pretrained("{{ code.path }}"{{ code.options }})
model.load_state_dict(load_file("path/to/this/folder/trained.safetensors"), strict=False)
model.eval()
{{ code.float32_kernels }}```
{%- endif %}
{%- if added and library != "transformers" and not pooled %}

Tokens were added to the base's vocabulary: {{ added }}. The tokenizer is in this folder, and
`added_tokens.safetensors` has their embeddings; copy them into `{{ variable }}`\
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

The tokenizer{{ ", the chat template" if head.goes_on else "" }} and the settings that \
end an answer are in this folder:

```python
from transformers import AutoTokenizer, GenerationConfig

tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
{{ prompt }}settings = GenerationConfig.from_pretrained("path/to/this/folder")
answer = model.generate(**prompt, generation_config=settings)
print(tokenizer.decode({{ written }}, skip_special_tokens=True))
```
{%- endif %}
{% if labels %}
The classes, in the order of the logits: {{ labels }}.
{% endif %}{% if record.decision.described %}
Numbers that turn outputs into answers, chosen on the validation split: \
{{ record.decision.described }}.
{% endif %}{% if meaning %}
{{ meaning }}
{% endif %}
## Training

The recipe, the digests of base, tokenizer and weights, and probes that prove the adapter was
loaded correctly are in `peftkit.json`. Versions: {{ versions }}.
"""


@functools.cache
def _template() -> jinja2.Template:
    return jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(TEMPLATE)


def write_card(folder: Path, name: str, record: Record, task: Task) -> None:
    """Writes README.md, which holds no rows of data and no local paths."""
    head, base, recipe = record.head, record.known_base, record.recipe
    source = record.rewound.source if record.rewound else {}
    library = _library(folder, head)
    pooled = _pooled_code(folder, record)
    text = _template().render(
        record=record,
        unfinished=any(row.startswith(VALIDATED) for row in record.metrics),
        name=name,
        base=base.known_name,
        head=head,
        labels=", ".join(f"`{label}`" for label in head.labels),
        source=", ".join(f"`{n}` with the SHA-256 {d[:12]}" for n, d in source.items()),
        metrics=[m for m in list(record.metrics.values())[-1] if m != "loss"],
        library=library,
        pooled=pooled,
        command=task.command,
        asked=list(map(flag, task.asked)),
        prompt=task.prompt_code(head) if head.generation else "",
        meaning=task.meaning_of_outputs(head),
        # a decoder-only model returns the prompt followed by its answer
        written='answer[0, prompt["input_ids"].shape[1] :]' if head.goes_on else "answer[0]",
        plugin=recipe.method == "BottleneckAdapter",
        virtual=library == "peft" and recipe.virtual_tokens,
        added=", ".join(f"`{token}`" for token in recipe.added_tokens),
        variable="base" if library == "peft" else "model",
        added_list=", ".join(f"{token!r}" for token in recipe.added_tokens),
        pipeline_tag=head.pipeline_tag,
        repository=repository(base),
        where=_where(base),
        folder=dequantized_folder(base) if library != "transformers" and not pooled else "",
        base_option="" if _is_reachable(base) else " --base path/to/the/base",
        code=base_code(record),
        versions=", ".join(f"{package} {version}" for package, version in record.versions.items()),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def _pooled_code(folder: Path, record: Record) -> str:
    """Text and code for a classifier that pools hidden states; empty for other heads."""
    if not record.head.pooling:
        return ""
    if (folder / "config.json").is_file():
        return model_code(record.head)
    return adapter_code(record.head, _is_reachable(record.known_base))


def _library(folder: Path, head: Head) -> str:
    """The Hub's name of the library that loads a folder; `other` if the folder has only tensors."""
    if head.pooling:
        return "peftkit"  # under another name, users would load it with the architecture's own head
    if (folder / "config.json").is_file():
        return "transformers"
    return "peft" if (folder / "adapter_config.json").is_file() else "other"


def _is_reachable(base: RecordedBase) -> bool:
    """Whether any machine can find a base by its name."""
    return bool(base.hub_id or packaged_base(base))


def _where(base: RecordedBase) -> str:
    """Markdown on where a base comes from, with the digests of its files."""
    revision = f" at revision `{base.revision}`" if base.revision else ""
    files = ", ".join(f"`{n}` {d[:12]}" for n, d in base.files.items())
    where = f"`{base.known_name}`{revision} (SHA-256 of its files: {files})"
    if not _is_reachable(base):
        where += "; it was a local file or folder, which you need too"
    if source := origin(base):
        where += f": {source}"
    return where
