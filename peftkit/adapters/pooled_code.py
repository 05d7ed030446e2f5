"""Text and code in a model card for a classifier that pools hidden states.

transformers has no class for this classifier. AutoModelForSequenceClassification would load the
trunk's weights, add another head, and answer differently.
"""

from __future__ import annotations

WHAT = {
    "mean": "the mean of the last hidden states over a text's tokens",
    "cls": "the last hidden state of a text's first token",
}
"""`Head.pooling` -> the hidden state that the classifier reads, in words."""
POOLED = {
    "mean": "(hidden * mask).sum(1) / mask.sum(1)",
    "cls": "hidden[:, 0]",
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
weights = load_file("path/to/this/folder/model.safetensors")


def classify(texts: list[str]) -> torch.Tensor:
    inputs = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    mask = inputs["attention_mask"][..., None]
    with torch.inference_mode():
        hidden = trunk(**inputs).last_hidden_state.float()
        pooled = {pooled}
        return pooled @ weights["classifier.weight"].float().T + weights["classifier.bias"].float()
```
"""


def adapter_code(pooling: str, reachable: bool) -> str:
    """The model card's text and code for an adapter.

    Args:
        reachable: whether any machine can find the adapter's base by its name.
    """
    base = "" if reachable else ', base="path/to/the/base"'
    return WARNING.format(what=WHAT[pooling]) + "From Python:\n\n" + LOADED.format(base=base)


def model_code(pooling: str) -> str:
    """The model card's text and code for a whole model; the code does not need peftkit."""
    intro = "With transformers, `classify` returns the logits:\n\n"
    return WARNING.format(what=WHAT[pooling]) + intro + WHOLE.format(pooled=POOLED[pooling])
