"""Prompt tuning: The Power of Scale for Parameter-Efficient Prompt Tuning (Lester et al. 2021,
arXiv:2104.08691).

    f([P; E(x)])        P: (num_virtual_tokens, d), trained; E: the frozen embeddings

Trains only the prompt. With a learning rate of 0.3 and 100 virtual tokens, the paper finds it as
good as full fine-tuning for bases of 10B parameters, and far worse for bases under 1B.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from peftkit.bases.base import Base
from peftkit.methods.peft.types import ADAPTER_NAME
from peftkit.methods.reasons import token_labels_refusal
from peftkit.methods.stored import StoredVirtualTokens

if TYPE_CHECKING:
    from torch import nn

    from peftkit.data.encoded import Encoded
    from peftkit.data.head import Head


class PromptTuning(StoredVirtualTokens):
    """Trains the embeddings of virtual tokens before the text."""

    num_virtual_tokens: int = Field(default=20, ge=1)
    """Length of the prompt in tokens."""
    prompt_tuning_init: Literal["RANDOM", "SAMPLE_VOCAB", "TEXT"] = "SAMPLE_VOCAB"
    """Start of the prompt. `RANDOM`: random numbers. `SAMPLE_VOCAB`: embeddings of random tokens
    (better in the paper's figure 3). `TEXT`: embeddings of `prompt_tuning_init_text`."""
    prompt_tuning_init_text: str = ""
    """Text to start from; it is cut or repeated to the length of the prompt."""

    @model_validator(mode="after")
    def _check_text(self) -> Self:
        if (self.prompt_tuning_init == "TEXT") != bool(self.prompt_tuning_init_text):
            raise ValueError(
                '`prompt_tuning_init_text` goes with `prompt_tuning_init="TEXT"`; give both'
            )
        return self

    def refuses(self, head: Head, base: Base) -> str | None:
        return token_labels_refusal(self.kind(), head)

    def inject(self, model: nn.Module, encoded: Encoded, head: tuple[str, ...]) -> nn.Module:
        from peft import PromptTuningConfig
        from peft.tuners.prompt_tuning import PromptTuningInit

        from peftkit.methods.peft.injection import is_rehearsal, modules_to_save
        from peftkit.methods.virtual_tokens import embedding_width, inject_virtual

        config = PromptTuningConfig(
            task_type=encoded.head.task_type,
            num_virtual_tokens=self.num_virtual_tokens,
            token_dim=embedding_width(model),
            prompt_tuning_init=PromptTuningInit.SAMPLE_VOCAB
            if self.prompt_tuning_init == "SAMPLE_VOCAB"
            else PromptTuningInit.RANDOM,
            modules_to_save=modules_to_save(encoded.head.task_type, head),
        )
        ids = self._text_ids(model) if self.prompt_tuning_init_text else []
        injected = inject_virtual(model, config)
        if ids and not is_rehearsal(model):
            embeddings: Any = model.get_input_embeddings()  # type: ignore[operator]
            prompt: Any = injected.prompt_encoder[ADAPTER_NAME]  # type: ignore[index]
            prompt.embedding.weight.data.copy_(embeddings.weight[ids])
        return injected

    def _text_ids(self, model: nn.Module) -> list[int]:
        """Returns the token ids of the start text, cut or repeated to the number of virtual tokens.

        Does not use PEFT, which adds special tokens and silently accepts unknown words.
        """
        from transformers import AutoTokenizer

        from peftkit.errors import MethodError

        base: Any = model
        tokenizer = AutoTokenizer.from_pretrained(base.name_or_path)
        text = self.prompt_tuning_init_text
        ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
        if not ids or tokenizer.unk_token_id in ids:
            raise MethodError(
                f"`method.prompt_tuning_init_text`: the base does not know all of `{text}`",
                "use words of its vocabulary; added tokens have no trained embeddings yet",
            )
        repeated = ids * -(-self.num_virtual_tokens // len(ids))
        return repeated[: self.num_virtual_tokens]
