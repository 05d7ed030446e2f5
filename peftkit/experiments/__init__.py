"""Many runs: jobs in separate processes, and comparisons made of them."""
