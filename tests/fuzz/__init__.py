"""Hostile input for every reader: targets stated once, used by a short run in the tests and by a long guided one."""
