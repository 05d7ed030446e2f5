"""Stage 1 of verifying: checks an adapter's bytes before any library opens them."""
