"""Tests: one module per source module, and test_functional_* that start the real programs."""
