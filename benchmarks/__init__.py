"""What takes how long: every stage next to a textbook version and the machine's limit.

Run by ``make bench``.
"""
