"""Stage 1 of verifying: what the bytes of an adapter tell, before any library opens them."""
