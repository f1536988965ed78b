"""What the book needs around `mcnn_core`: simulated screens and their truth, figures, checks.

`mcnn_core` never imports it.
"""
