"""Writes the model card of a merged model: its origin, and its certificate in words."""

from __future__ import annotations

from pathlib import Path

import jinja2

from peftkit.adapters.base_origin import origin, repository
from peftkit.adapters.pooled_code import model_code
from peftkit.adapters.record import Record
from peftkit.reports.merge_report import MergeReport

TEMPLATE = """\
---
{% if repository %}base_model: {{ repository }}
{% endif %}library_name: {{ "peftkit" if pooled else "transformers" }}
pipeline_tag: {{ pipeline_tag }}
tags:
- peftkit
---

# {{ name }}

{{ method }}{% if base %} of `{{ base }}`{% endif %}, merged with \
[peftkit](https://pypi.org/project/peftkit/) into {{ into }}{{ strength }}.\
{% if origin %} That base is {{ origin }}.{% endif %}

{% if pooled -%}
{{ pooled }}
{%- else -%}
```python
from transformers import AutoTokenizer, {{ record.head.auto_class }}

tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
model = {{ record.head.auto_class }}.from_pretrained("path/to/this/folder").eval()
```
{%- endif %}
{% if meaning %}
{{ meaning }}
{% endif %}
Compared with the adapter on its base, logits differ by at most {{ difference }}\
{% if record.head.num_outputs == 1 %}{% else %}, and the likeliest
answer is the same at {{ agreement }} of the positions{% endif %}; \
`merge_report.json` has the details.
{% if record.decision.described %}
Numbers that turn outputs into answers, chosen on the validation split: \
{{ record.decision.described }}.
{% endif %}{% if scores %}
| validation split | {{ scores | join(" | ") }} |
|---|{% for _ in scores %}---:|{% endfor %}
{% for row, values in rows -%}
| {{ row }} |{% for value in values.values() %} {{ "%.4f" | format(value) }} |{% endfor %}
{% endfor %}{% endif %}"""
TARGETS = {
    "trained": "the weights that were trained on",
    "original": "the original weights, which were quantized in training",
    "requantized": "the weights that were trained on, quantized again",
}


def write_merged_card(
    folder: Path, name: str, record: Record, report: MergeReport, meaning: str = ""
) -> None:
    """Writes the merged model's README.md, which shows no rows of data and no local paths.

    Args:
        name: the merged model's name.
        meaning: see `Task.meaning_of_outputs`.
    """
    template = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False).from_string(
        TEMPLATE
    )
    base = record.base
    card = template.render(
        record=record,
        name=name,
        meaning=meaning,
        pooled=model_code(record.head) if record.head.pooling else "",
        difference=f"{report.max_abs_dlogit:.1e}",
        agreement=f"{report.top1_agreement:.2%}",
        method=record.peft_config.kind or record.recipe.method,
        base=base.known_name if base else "",
        origin=origin(base) if base else "",
        repository=repository(base) if base else "",
        into=TARGETS[report.into],
        strength="" if report.scale == 1 else f" at strength {report.scale}",
        rows=(("adapter", report.score.adapter), ("merged", report.score.merged)),
        scores=list(report.score.adapter),
        pipeline_tag=record.head.pipeline_tag,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
