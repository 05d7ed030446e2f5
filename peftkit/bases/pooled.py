"""A classifier that pools the last hidden states, instead of the architecture's own head.

    mean    logits = W dropout(sum_t h_t / T) + b        t: the tokens of the text
    cls     logits = W dropout(h_1) + b                  (Devlin et al. 2019, arXiv:1810.04805)
    markers logits = W dropout([h_i; h_j]) + b           (Soares et al. 2019, arXiv:1906.03158)
            i, j: places of two marker tokens, such as those at the starts of two entities

In bases trained to compare texts by the mean of their hidden states (Reimers & Gurevych 2019,
arXiv:1908.10084), the pooler that BERT's head reads is untrained. Virtual tokens before a text are
not pooled.
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
"""Field of the model's configuration that holds the pooling: `mean`, `cls` or `markers`."""
PLACES = "peftkit_places"
"""Field of the model's configuration for the number of hidden states that `markers` joins."""
DROPOUTS = (
    "classifier_dropout", "seq_classif_dropout", "hidden_dropout_prob", "hidden_dropout", "dropout",
    "resid_pdrop",
)  # fmt: skip
"""Configuration fields for dropout of classifiers or hidden states; the first one found is used."""


def pooled_class(config: Any, name: str) -> Any:
    """The classifier class for a configuration. It has `from_config` and `from_pretrained`, like
    transformers' AutoModels.

    Args:
        name: the base's name for messages.

    Raises:
        BaseModelError: the architecture has no hidden states to pool.
    """
    advice = 'leave `task.pooling` at "head", or choose a base of another architecture'
    if config.is_encoder_decoder:
        raise BaseModelError(
            f"`{name}` is a {config.model_type} model, with an encoder and a decoder: its last "
            "hidden states belong to the text it writes; `task.pooling` needs hidden states of the "
            "text it reads",
            advice,
        )
    mapping: Any = transformers.AutoModel
    if type(config) not in mapping._model_mapping:
        raise BaseModelError(
            f"`{name}` is a {config.model_type} model, which is not in transformers, and "
            "`task.pooling` supports only architectures in transformers",
            advice,
        )
    trunk = mapping._model_mapping[type(config)]
    return _class_for(trunk[0] if isinstance(trunk, tuple) else trunk)


def is_pooled(model: Any) -> bool:
    """Whether a model is a pooled classifier, made by `pooled_class`."""
    return isinstance(model, _Pooled)


def reads_every_token(model: Any) -> bool:
    """Whether a model is a pooled classifier that may read any token of a text."""
    return is_pooled(model) and getattr(model.config, FIELD) != "cls"


def reads_places(model: Any) -> bool:
    """Whether a model is a pooled classifier that is given the places to read, `read_at`."""
    return is_pooled(model) and getattr(model.config, FIELD) == "markers"


def check_first_token(model: Any, name: str) -> None:
    """Raises BaseModelError if a model pools the first token but that token sees no others.

    Args:
        model: a model, on any device or the meta device.
        name: the base's name for messages.
    """
    if getattr(model.config, FIELD) == "cls" and _reads_left_to_right(model):
        raise BaseModelError(
            f'`task.pooling` is "cls", and `{name}` reads from left to right: its first token sees '
            "only itself, not the text",
            'use "mean", or "head", which reads the last token',
        )


def _reads_left_to_right(model: Any) -> bool:
    """Whether tokens see only earlier tokens, as the attention's `is_causal` says. If it says
    nothing, True for architectures that have a causal but no masked language model.
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
    """Makes the classifier class for a trunk class. It inherits the checkpoint prefix, kinds of
    attention and weight initialization of the trunk class.
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
        "_can_record_outputs": None,  # the trunk returns them
    }
    return type(name, (_Pooled, family), attributes)


class _Pooled:
    """Methods of all pooled classifiers; other behaviour is inherited from the architecture."""

    trunk_class: Any
    config: Any

    def __init__(self, config: Any) -> None:
        transformers.PreTrainedModel.__init__(self, config)  # type: ignore[arg-type]
        trunk = type(self).trunk_class(config)
        if isinstance(getattr(trunk, "pooler", None), nn.Module):
            trunk.pooler = nn.Identity()  # nothing reads it
        setattr(self, self.base_model_prefix, trunk)  # type: ignore[attr-defined]
        self.dropout = nn.Dropout(_dropout(config))
        width = config.get_text_config().hidden_size * getattr(config, PLACES, 1)
        self.classifier = nn.Linear(width, config.num_labels)
        self.post_init()  # type: ignore[attr-defined]

    @classmethod
    def from_config(cls, config: Any, **_: Any) -> Any:
        """Makes a model with random weights, as transformers' AutoModels do."""
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
        read_at: Tensor | None = None,
        **others: Any,
    ) -> SequenceClassifierOutputWithPast:
        """Computes logits, (rows, classes); for documents packed in one row, (documents, classes).

        Args:
            attention_mask: (rows, width); with the keys and values of a prefix, (rows, prefix +
                width).
            document_lengths: number of tokens in each document of a packed row.
            num_virtual_tokens: number of virtual tokens at the start of each row of
                `inputs_embeds`.
            read_at: (outputs, places), places of the tokens that `markers` reads, counted over all
                rows one after another, without virtual tokens. If not given, as for inputs without
                markers, each row's first token is read at all places.
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
        pooling = getattr(self.config, FIELD)
        first = pooling == "cls"
        if pooling == "markers":
            pooled = _at_places(
                hidden[:, num_virtual_tokens:], read_at, getattr(self.config, PLACES)
            )
        elif document_lengths is not None:
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
    """The first dropout rate of `DROPOUTS` that the configuration has; 0 if it has none."""
    rates = (getattr(config, name, None) for name in DROPOUTS)
    return float(next((rate for rate in rates if rate is not None), 0.0))


def _text(hidden: Tensor, mask: Tensor | None, num_virtual_tokens: int) -> Tensor:
    """Mask of the hidden states to pool, (rows, width): 1 for tokens of the text, 0 for others."""
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
    """Mean hidden state of each text, (rows, d), computed in float32."""
    sums = (hidden.float() * text[..., None]).sum(1)
    return (sums / text.sum(1, keepdim=True)).to(hidden.dtype)


def _at_places(hidden: Tensor, read_at: Tensor | None, places: int) -> Tensor:
    """Joins the hidden states at the places of each output, (rows, width, d) -> (outputs, places *
    d).
    """
    if read_at is None:
        return hidden[:, 0].repeat(1, places)
    return hidden.flatten(0, 1).index_select(0, read_at.flatten()).reshape(len(read_at), -1)


def _first(hidden: Tensor, text: Tensor) -> Tensor:
    """Hidden state of each text's first token, (rows, d)."""
    at = text.argmax(1)  # argmax returns the first of equal values
    return hidden[torch.arange(len(hidden), device=hidden.device), at]


def _mean_of_documents(hidden: Tensor, lengths: Sequence[int]) -> Tensor:
    """Mean hidden state of each document, (1, tokens, d) -> (documents, d), computed in float32."""
    counts = torch.tensor(lengths, device=hidden.device)
    means = torch.segment_reduce(hidden[0].float(), "mean", lengths=counts, axis=0, unsafe=True)
    return means.to(hidden.dtype)


def _first_of_documents(hidden: Tensor, lengths: Sequence[int]) -> Tensor:
    """Hidden state of each document's first token, (1, tokens, d) -> (documents, d). `hidden` is
    (documents, 1, d) if the last block computed first tokens only.
    """
    if hidden.shape[:2] == (len(lengths), 1):
        return hidden[:, 0]
    counts = torch.tensor(lengths, device=hidden.device)
    return hidden[0].index_select(0, counts.cumsum(0) - counts)
