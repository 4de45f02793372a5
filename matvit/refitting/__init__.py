"""Pretrained encoders made elastic: hidden units ordered, refitted and taught."""
