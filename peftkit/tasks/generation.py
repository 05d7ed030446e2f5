"""A recipe's settings of how a trained model writes text."""

from __future__ import annotations

from pydantic import Field

from peftkit.parts.part import Part


class Generation(Part):
    """How text is written, by the names of transformers' `GenerationConfig`; greedy unless
    `do_sample`.
    """

    max_new_tokens: int = Field(default=128, ge=1)
    """Most tokens of an answer; it may end earlier by itself."""
    do_sample: bool = False
    """Draw each token by its probability instead of taking the likeliest."""
    temperature: float = Field(default=1.0, gt=0)
    """Below 1 sharpens the probabilities, above 1 flattens them; for `do_sample`."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Draw from the likeliest tokens that together have this probability; for `do_sample`."""
    repetition_penalty: float = Field(default=1.0, ge=1)
    """Divides the logits of tokens that occurred already (arXiv:1909.05858); 1 for none."""

    def options(self) -> dict[str, object]:
        """The fields in effect, as keyword arguments of transformers' `generate`."""
        options = self.model_dump()
        if not self.do_sample:
            del options["temperature"], options["top_p"]
        return options
