"""Benchmarks and the models they run on; not installed with optkit."""
