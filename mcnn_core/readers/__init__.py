"""Screens as they come: image files and the tables that name them."""
