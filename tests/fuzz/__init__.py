"""Hostile input for every reader.

Targets are stated once, used by a short run in the tests and by a long guided one.
"""
