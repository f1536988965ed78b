"""Phenotypes from microscope fields, without segmentation and without labels.

One module per stage of the method, each importing only earlier ones; the book's
chapters follow the same order and the same names.
"""

__version__ = "0.1.0"
