"""Many runs: jobs in processes of their own, and comparisons made of them."""
