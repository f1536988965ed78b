"""Faults that really happen, to real processes on tiny data, and what is left after them."""
