"""Indexes made of images, and kept up with them."""
