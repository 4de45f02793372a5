"""Measurements: how well submodels retrieve, against what they cost."""
