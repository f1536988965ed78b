"""What takes how long: every stage beside a textbook version and the machine's limit.

Run by ``make bench``.
"""
