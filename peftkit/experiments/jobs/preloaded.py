"""Imports everything once, in the process that a comparison's processes are forked from."""

from peftkit.bases.quiet_libraries import quiet_libraries

quiet_libraries()  # some print at import, which nobody needs in each of fifty runs

from peftkit.experiments.jobs import work  # noqa: E402

__all__ = ["work"]
