"""What profiles answer: mechanisms, potency, clusters, novelty, genes.

Each module imports only profiles and modules before it.
"""
