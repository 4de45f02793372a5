"""Nested training: from a recipe and images to a checkpoint."""
