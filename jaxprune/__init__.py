"""Structured channel pruning for JAX."""
