"""A classifier on the last hidden states, instead of the architecture's head.

    mean    logits = W dropout(sum_t h_t / T) + b        t: the tokens of the text
    cls     logits = W dropout(h_1) + b                  (Devlin et al. 2019, arXiv:1810.04805)

Bases trained to compare texts by the mean of their hidden states (Reimers & Gurevych 2019,
arXiv:1908.10084) have all they know there; the pooler that BERT's head reads is untrained in them.
Virtual tokens before a text do not count as its tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutputWithPast

from peftkit.errors import BaseModelError

FIELD = "peftkit_pooling"
"""Field of the model's configuration: what the classifier reads, `mean` or `cls`."""
DROPOUTS = (
    "classifier_dropout", "seq_classif_dropout", "hidden_dropout_prob", "hidden_dropout", "dropout",
    "resid_pdrop",
)  # fmt: skip
"""Configuration fields for the dropout before classifiers, or of hidden states."""


def pooled_class(config: Any, name: str) -> Any:
    """The classifier for a configuration, as a class with transformers' `from_config` and
    `from_pretrained`.

    Args:
        name: of the base, for messages.

    Raises:
        BaseModelError: the architecture has no hidden states to pool.
    """
    advice = 'leave `task.pooling` at "head", or choose a base of another architecture'
    if config.is_encoder_decoder:
        raise BaseModelError(
            f"`{name}` is a {config.model_type} model, with an encoder and a decoder: its last "
            "hidden states are of the text it writes, which `task.pooling` cannot pool",
            advice,
        )
    mapping: Any = transformers.AutoModel
    if type(config) not in mapping._model_mapping:
        raise BaseModelError(
            f"`{name}` is a {config.model_type} model, an architecture not in transformers, and "
            "`task.pooling` is for those in transformers",
            advice,
        )
    trunk = mapping._model_mapping[type(config)]
    return _class_for(trunk[0] if isinstance(trunk, tuple) else trunk)


def is_pooled(model: Any) -> bool:
    """Whether a transformers model is a classifier from this module."""
    return isinstance(model, _Pooled)


def reads_every_token(model: Any) -> bool:
    """Whether a model's classifier reads more than one token of an example."""
    return is_pooled(model) and getattr(model.config, FIELD) == "mean"


def check_first_token(model: Any, name: str) -> None:
    """Raises BaseModelError if a model pools the first token, and that sees no other.

    Args:
        model: may be on the meta device.
        name: of the base.
    """
    if getattr(model.config, FIELD) == "cls" and _reads_left_to_right(model):
        raise BaseModelError(
            f'`task.pooling` is "cls", and `{name}` reads from left to right: its first token sees '
            "only itself, not the text",
            'use "mean", or "head", which reads the last token',
        )


def _reads_left_to_right(model: Any) -> bool:
    """Whether a model is causal, by its attention's `is_causal`; if it has none, by whether the
    architecture has a causal and no masked language model.
    """
    causal = [module.is_causal for module in model.modules() if hasattr(module, "is_causal")]
    if causal:
        return any(causal)
    writes: Any = transformers.AutoModelForCausalLM
    fills: Any = transformers.AutoModelForMaskedLM
    kind = type(model.config)
    return kind in writes._model_mapping and kind not in fills._model_mapping


@functools.cache
def _class_for(trunk: Any) -> Any:
    """A subclass of the trunk's family, with its prefix in checkpoints, kinds of attention and
    initialization of weights.
    """
    family = next(
        kind for kind in trunk.__mro__[1:] if issubclass(kind, transformers.PreTrainedModel)
    )
    name = f"{trunk.__name__.removesuffix('Model')}ForPooledClassification"
    attributes = {
        "__module__": __name__,
        "trunk_class": trunk,
        "config_class": trunk.config_class,
        "_no_split_modules": trunk._no_split_modules,
        "_can_record_outputs": None,  # the trunk gives them
    }
    return type(name, (_Pooled, family), attributes)


class _Pooled:
    """The part common to all these classes; the rest is the architecture's."""

    trunk_class: Any
    config: Any

    def __init__(self, config: Any) -> None:
        transformers.PreTrainedModel.__init__(self, config)  # type: ignore[arg-type]
        trunk = type(self).trunk_class(config)
        if isinstance(getattr(trunk, "pooler", None), nn.Module):
            trunk.pooler = nn.Identity()  # nothing reads it
        setattr(self, self.base_model_prefix, trunk)  # type: ignore[attr-defined]
        self.dropout = nn.Dropout(_dropout(config))
        width = config.get_text_config().hidden_size
        self.classifier = nn.Linear(width, config.num_labels)
        self.post_init()  # type: ignore[attr-defined]

    @classmethod
    def from_config(cls, config: Any, **_: Any) -> Any:
        """A model with random weights, as `from_config` of transformers' AutoModels."""
        return cls._from_config(config)  # type: ignore[attr-defined]

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        labels: None = None,
        return_dict: bool | None = None,
        document_lengths: tuple[int, ...] | None = None,
        num_virtual_tokens: int = 0,
        **others: Any,
    ) -> SequenceClassifierOutputWithPast:
        """Logits (rows, classes); (documents, classes) for a packed row.

        Args:
            attention_mask: (rows, width); longer if keys and values of a prefix come before.
            document_lengths: tokens of each document, if they are packed in one row.
            num_virtual_tokens: at the start of each row of `inputs_embeds`.
        """
        if labels is not None:
            raise ValueError("peftkit computes the loss from the logits; give no `labels`")
        inputs = {
            "input_ids": input_ids, "attention_mask": attention_mask,
            "token_type_ids": token_type_ids, "position_ids": position_ids,
            "past_key_values": past_key_values, "inputs_embeds": inputs_embeds,
            "use_cache": use_cache, "document_lengths": document_lengths, **others,
        }  # fmt: skip
        trunk = getattr(self, self.base_model_prefix)  # type: ignore[attr-defined]
        out = trunk(**{name: value for name, value in inputs.items() if value is not None})
        hidden: Tensor = out.last_hidden_state
        first = getattr(self.config, FIELD) == "cls"
        if document_lengths is not None:
            pooled = (_first_of_documents if first else _mean_of_documents)(
                hidden, document_lengths
            )
        else:
            text = _text(hidden, attention_mask, num_virtual_tokens)
            pooled = _first(hidden, text) if first else _mean(hidden, text)
        return SequenceClassifierOutputWithPast(
            logits=self.classifier(self.dropout(pooled)),
            past_key_values=out.get("past_key_values"),
            hidden_states=out.get("hidden_states"),
            attentions=out.get("attentions"),
        )


def _dropout(config: Any) -> float:
    """Dropout rate of an architecture's classifier; 0 if its configuration has none."""
    rates = (getattr(config, name, None) for name in DROPOUTS)
    return float(next((rate for rate in rates if rate is not None), 0.0))


def _text(hidden: Tensor, mask: Tensor | None, num_virtual_tokens: int) -> Tensor:
    """(rows, width), 1 for hidden states of the text's tokens, else 0."""
    rows, width = hidden.shape[:2]
    if mask is None:
        mask = torch.ones((rows, width), device=hidden.device)
    if mask.dim() != 2 or mask.shape[1] < width:
        raise ValueError(
            f"a mask of shape {tuple(mask.shape)} does not fit {rows} x {width} tokens"
        )
    mask = mask[:, -width:]
    if num_virtual_tokens:
        mask = mask * (mask.cumsum(1) > num_virtual_tokens)
    return mask.to(torch.float32)


def _mean(hidden: Tensor, text: Tensor) -> Tensor:
    """(rows, d), computed in float32."""
    sums = (hidden.float() * text[..., None]).sum(1)
    return (sums / text.sum(1, keepdim=True)).to(hidden.dtype)


def _first(hidden: Tensor, text: Tensor) -> Tensor:
    """(rows, d), the hidden state of each text's first token."""
    at = text.argmax(1)  # the first of equal values
    return hidden[torch.arange(len(hidden), device=hidden.device), at]


def _mean_of_documents(hidden: Tensor, lengths: Sequence[int]) -> Tensor:
    """(1, tokens, d) -> (documents, d), computed in float32."""
    counts = torch.tensor(lengths, device=hidden.device)
    means = torch.segment_reduce(hidden[0].float(), "mean", lengths=counts, axis=0, unsafe=True)
    return means.to(hidden.dtype)


def _first_of_documents(hidden: Tensor, lengths: Sequence[int]) -> Tensor:
    """(1, tokens, d), or (documents, 1, d) if the last block kept only first tokens ->
    (documents, d).
    """
    if hidden.shape[:2] == (len(lengths), 1):
        return hidden[:, 0]
    counts = torch.tensor(lengths, device=hidden.device)
    return hidden[0].index_select(0, counts.cumsum(0) - counts)
