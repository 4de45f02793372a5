"""Vision Transformers that run their submodels: what nests in them, and how it is cut."""
