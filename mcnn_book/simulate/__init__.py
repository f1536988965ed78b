"""Simulated screens with known truth, in the real file formats."""
