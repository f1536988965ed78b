"""Declared runs over seeds, variants and baselines, and their records."""
