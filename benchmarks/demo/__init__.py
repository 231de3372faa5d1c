"""`python -m benchmarks.demo`: a small network, from training to a measured int8 artifact."""
