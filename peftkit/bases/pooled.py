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
from typing import Any

import transformers
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutputWithPast

from peftkit.bases.architectures import is_decoder
from peftkit.bases.pooling import at_places, first, mean
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
    return is_decoder(model.config)


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
            attention_mask: (rows, width), or (rows, prefix + width) with a prefix in the cache.
            document_lengths: number of tokens in each document of a packed row.
            num_virtual_tokens: number of virtual tokens before each row of `inputs_embeds`.
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
        if getattr(self.config, FIELD) == "markers":
            text = hidden[:, num_virtual_tokens:]
            pooled = at_places(text, read_at, getattr(self.config, PLACES))
        else:
            pool = first if getattr(self.config, FIELD) == "cls" else mean
            pooled = pool(hidden, attention_mask, num_virtual_tokens, document_lengths)
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
