"""Tests: folders mirror the source; ``functional`` starts the real programs."""
