"""Lists the commands in the groups of the help, and says what each command does."""

from __future__ import annotations

from typing import Final

GROUPS: Final = {
    "train": {
        "new": "write a recipe script; with --data, for your own file",
        "check": "find errors before weights are loaded; trains nothing",
        "plan": "estimate a run's memory and time before weights are loaded",
        "run": "train a recipe (.py or recipe.json); save a checked adapter",
        "compare": "compare methods, each at its best learning rate",
    },
    "use": {
        "predict": "answer texts with a trained adapter",
        "chat": "talk with a trained model",
        "verify": "check an adapter; exit code 1: problems found; 2: not an adapter",
        "rewind": "find the strength at which an adapter forgets least",
    },
    "share": {
        "merge": "merge an adapter into its base's weights, with a proof",
        "export": "write an adapter for other programs",
        "convert": "convert a pickle's tensors (.bin) to a safetensors file",
    },
    "more": {
        "env": "print versions, device, threads and caches, for a bug report",
        "schema": "print the JSON Schema of recipe.json",
        "completion": "print a script for command completion in a shell",
    },
}
"""Heading in the help -> command -> what the command does."""
SUMMARIES: Final = {name: text for group in GROUPS.values() for name, text in group.items()}
"""Command -> what the command does."""
