"""Submodels as values: what they are, what they cost, how long they take, what a budget picks. No torch."""
