"""What the process imports from which those of a comparison are forked: everything, once."""

from peftkit.bases.quiet_libraries import quiet_libraries

quiet_libraries()  # some say at import what a person need not read in each of fifty runs

from peftkit.experiments.jobs import work  # noqa: E402

__all__ = ["work"]
