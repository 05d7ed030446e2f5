"""`python -m peftkit` is the `peftkit` command."""

from peftkit.cli import command_line

command_line()
