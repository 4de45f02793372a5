"""Checkpoints of Google's Scenic, converted."""
