"""Kinds of FAISS index: which one `auto` takes, how it is built, tuned and measured, and how it searches."""
