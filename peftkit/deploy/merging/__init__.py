"""Merges an adapter into its base, with a certificate that the outputs agree."""
