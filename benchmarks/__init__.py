"""What is measured, and against whom; results are JSON, docs/benchmarks.md is made from them."""
