"""Writes the lines of a model card that make the prompt of a model that writes."""

from __future__ import annotations

import json


def chat_code(said: str) -> str:
    """Code that renders what a user says with the tokenizer's chat template."""
    content = json.dumps(said, ensure_ascii=False)
    return (
        f'messages = [{{"role": "user", "content": {content}}}]\n'
        "prompt = tokenizer.apply_chat_template(\n    messages, "
        'add_generation_prompt=True, return_tensors="pt", return_dict=True\n)\n'
    )


def encoder_code(text: str) -> str:
    """Code that encodes the text of an encoder."""
    return f'prompt = tokenizer({json.dumps(text, ensure_ascii=False)}, return_tensors="pt")\n'
