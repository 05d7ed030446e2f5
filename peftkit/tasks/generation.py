"""A recipe's settings for generating text with the trained model."""

from __future__ import annotations

from pydantic import Field

from peftkit.parts.part import Part


class Generation(Part):
    """How the model writes text; the fields have the names of transformers' `GenerationConfig`.
    Decoding is greedy unless `do_sample` is true.
    """

    max_new_tokens: int = Field(default=128, ge=1)
    """Most tokens of an answer; the model may end it earlier."""
    do_sample: bool = False
    """Draw each token by its probability instead of taking the most likely one."""
    temperature: float = Field(default=1.0, gt=0)
    """With `do_sample`: values below 1 sharpen the probabilities, values above 1 flatten them."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """With `do_sample`: draw only from the most likely tokens that together have this
    probability."""
    repetition_penalty: float = Field(default=1.0, ge=1)
    """Factor that makes tokens which already occurred less likely (it divides their logits,
    arXiv:1909.05858); 1 for no change."""

    def options(self) -> dict[str, object]:
        """The fields in effect, as keyword arguments of transformers' `generate`."""
        options = self.model_dump()
        if not self.do_sample:
            del options["temperature"], options["top_p"]
        return options
