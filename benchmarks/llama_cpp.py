"""A chat run in the real llama.cpp beside transformers: its LoRA file and its merged model.

    python -m benchmarks.llama_cpp RUN        # RUN of SmolLM2; needs the test extra (xllamacpp)

Log-probabilities of the ten likeliest next tokens on ten prompts of the run's own template, and
greedy answers of 20 tokens. The LoRA file lies beside the weights that were trained on, as float32.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from peftkit.adapters.loading import load
from peftkit.bases.quiet_libraries import quiet_libraries
from peftkit.deploy.exporting.export import export
from tests.test_export import QUESTIONS, LlamaCpp, check_texts, largest_difference, write_base


def main() -> None:
    run = sys.argv[1]
    quiet_libraries()
    adapter = load(run)
    tokenizer, task = adapter.tokenizer, adapter.recipe.task
    system = [{"role": "system", "content": task.system}] if getattr(task, "system", "") else []
    texts = [
        tokenizer.apply_chat_template(
            [*system, {"role": "user", "content": question}],
            tokenize=False, add_generation_prompt=True,
        )
        for question in QUESTIONS
    ]  # fmt: skip
    prompts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    with tempfile.TemporaryDirectory() as work:
        lora, base, merged = (Path(work) / name for name in ("lora.gguf", "base.gguf", "m.gguf"))
        export(run, "gguf-lora", str(lora))
        export(run, "gguf", str(merged))
        export(run, "gguf", str(exact := Path(work) / "exact.gguf"), quantize="f32")
        write_base(adapter, base)
        for name, client in (
            ("LoRA file beside the base, f32", LlamaCpp(base, lora)),
            ("merged, f16", LlamaCpp(merged)),
            ("merged, f32", LlamaCpp(exact)),
        ):
            same_ids = [client.tokenize(text) for text in texts] == prompts
            difference = largest_difference(client, adapter.model, prompts)
            apart = check_texts(client, adapter, prompts, near=0.04)
            print(
                f"{name}: prompts read the same: {same_ids}; largest difference of a "
                f"log-probability {difference:.5f}; {len(prompts) - apart} of {len(prompts)} "
                "greedy answers of 20 tokens equal",
                flush=True,
            )


if __name__ == "__main__":
    main()
