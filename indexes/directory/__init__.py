"""An index in a directory, the first kind of store: made, opened, searched and changed."""
