"""Conditions on rows: how they are written, and which rows of a store satisfy one."""
