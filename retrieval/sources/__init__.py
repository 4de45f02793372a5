"""Where images come from: one kind a file, listed in `retrieval.sources.all_sources`."""
