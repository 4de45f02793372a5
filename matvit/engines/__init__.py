"""What runs a submodel: an engine a file, all of them listed in `all_engines`, side by side in `compare`."""
