"""The code in a model card that loads an adapter's base with transformers."""

from __future__ import annotations

import json
from dataclasses import dataclass

from peftkit.adapters.base_origin import loading_arguments
from peftkit.adapters.record import Record

FLOAT32_KERNELS = """\
for module in model.modules():  # else bitsandbytes repacks 4-bit weights on some CPUs, and rounds
    if hasattr(module, "support_avx512bf16_for_cpu"):
        module.support_avx512bf16_for_cpu = False
"""


@dataclass(frozen=True)
class BaseCode:
    """The parts of a model card's code that differ between bases."""

    path: str
    """First argument of `from_pretrained`."""
    options: str
    """Keyword arguments of `from_pretrained`, each preceded by a comma."""
    config: str
    """Lines that build a configuration for `from_pretrained`; empty to use the configuration of the
    base."""
    imports: str
    """Further transformers classes to import, each preceded by a comma."""
    float32_kernels: str
    """Lines after `from_pretrained` that prevent rounding of 4-bit bases; empty for other bases."""


def base_code(record: Record) -> BaseCode:
    """Code for a model card that loads an adapter's base as in training."""
    path, _ = loading_arguments(record.known_base)
    config = _config_code(record, path)
    quantized = record.known_base.quantization != "none"
    four_bits = record.recipe.quantization in ("nf4", "fp4")
    return BaseCode(
        path=path,
        options="".join(f", {option}" for option in _load_options(record)),
        config=config,
        imports=(", AutoConfig" if config else "") + (", BitsAndBytesConfig" if quantized else ""),
        float32_kernels=FLOAT32_KERNELS if four_bits else "",
    )


def _config_options(record: Record) -> list[str]:
    """Code of the keyword arguments of `from_pretrained` that change the configuration."""
    head = record.head
    outputs = [f"num_labels={head.num_outputs}"] if head.num_outputs else []
    if head.problem_type:
        outputs.append(f'problem_type="{head.problem_type}"')
    return [*outputs, *loading_arguments(record.known_base)[1]]


def _config_code(record: Record, base_path: str) -> str:
    """Code that lists the unquantized layers of a prequantized base; empty for other bases."""
    base = record.known_base
    if base.quantization != "none" or not base.unquantized:
        return ""
    options = "".join(f", {option}" for option in _config_options(record))
    return (
        f'config = AutoConfig.from_pretrained("{base_path}"{options})\n'
        f'config.quantization_config["llm_int8_skip_modules"] = '
        f"{json.dumps(base.unquantized)}\n"
    )


def _load_options(record: Record) -> list[str]:
    """Code of the keyword arguments of `from_pretrained` that load the base as in training."""
    if _config_code(record, ""):
        return ["config=config"]
    options, base = _config_options(record), record.known_base
    kind = base.quantization
    if kind != "none":
        eight, four = "load_in_8bit=True", f'load_in_4bit=True, bnb_4bit_quant_type="{kind}"'
        four += ", bnb_4bit_use_double_quant=True" if base.double_quant else ""
        skipped = json.dumps(base.unquantized)
        kept = f", llm_int8_skip_modules={skipped}" if base.unquantized else ""
        arguments = f"{eight if kind == 'int8' else four}{kept}"
        options.append(f"quantization_config=BitsAndBytesConfig({arguments})")
    return options
