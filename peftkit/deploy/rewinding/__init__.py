"""The strength at which an adapter keeps what it learned and forgets least."""
