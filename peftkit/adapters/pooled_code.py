"""Text and code in a model card for a classifier that pools hidden states.

transformers has no class for this classifier. AutoModelForSequenceClassification would load the
trunk's weights, add another head, and answer differently.
"""

from __future__ import annotations

from peftkit.data.head import Head

WHAT = {
    "mean": "the mean of the last hidden states over a text's tokens",
    "cls": "the last hidden state of a text's first token",
    "markers": "the last hidden states of {markers}, joined",
}
"""`Head.pooling` -> the hidden state that the classifier reads, in words."""
POOLED = {
    "mean": "(hidden * mask).sum(1) / mask.sum(1)",
    "cls": "hidden[:, 0]",
    "markers": 'torch.cat([hidden[inputs["input_ids"] == marker] for marker in markers], dim=1)',
}
"""`Head.pooling` -> code that computes the hidden state that the classifier reads."""

WARNING = """\
The classifier is one linear layer on {what}. No class of transformers computes that: \
AutoModelForSequenceClassification would load these weights and answer something else.
"""
LOADED = """\
```python
import peftkit

classifier = peftkit.load("path/to/this/folder"{base})
print(classifier.predict(["..."]))
```
"""
WHOLE = """\
```python
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
trunk = AutoModel.from_pretrained("path/to/this/folder").eval()  # its pooler, if any, is not read
{markers}weights = load_file("path/to/this/folder/model.safetensors")


def classify(texts: list[str]) -> torch.Tensor:
    inputs = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    mask = inputs["attention_mask"][..., None]
    with torch.inference_mode():
        hidden = trunk(**inputs).last_hidden_state.float()
        pooled = {pooled}
        return pooled @ weights["classifier.weight"].float().T + weights["classifier.bias"].float()
```
"""


def adapter_code(head: Head, reachable: bool) -> str:
    """The model card's text and code for an adapter.

    Args:
        reachable: whether any machine can find the adapter's base by its name.
    """
    base = "" if reachable else ', base="path/to/the/base"'
    return _warning(head) + "From Python:\n\n" + LOADED.format(base=base)


def model_code(head: Head) -> str:
    """The model card's text and code for a whole model; the code does not need peftkit."""
    intro = "With transformers, `classify` returns the logits:\n\n"
    markers = ""
    if head.markers:  # each of them once in every text
        markers = f"markers = tokenizer.convert_tokens_to_ids({list(head.markers)!r})\n"
    return _warning(head) + intro + WHOLE.format(pooled=POOLED[head.pooling], markers=markers)


def _warning(head: Head) -> str:
    markers = " and ".join(f"`{marker}`" for marker in head.markers)
    return WARNING.format(what=WHAT[head.pooling].format(markers=markers))
