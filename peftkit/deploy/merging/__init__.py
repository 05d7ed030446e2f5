"""The adapter folded into its base, with a certificate that the outputs agree."""
