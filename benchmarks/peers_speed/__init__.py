"""Workers of `python -m benchmarks speed`: ours, and one per peer in its own environment."""
