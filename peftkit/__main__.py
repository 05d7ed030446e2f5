"""`python -m peftkit` is the `peftkit` command."""

from peftkit.cli.main import command_line

command_line()
