"""The `matvit` command: one thin file a command."""
