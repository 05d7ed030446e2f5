"""Imports the model libraries once, in the process from which jobs are forked."""

from peftkit.bases.quiet_libraries import quiet_libraries

quiet_libraries()  # some libraries print when they are imported

from peftkit.experiments.jobs import work  # noqa: E402

__all__ = ["work"]
