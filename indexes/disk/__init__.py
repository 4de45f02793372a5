"""The files of an index: what they hold, and how they survive a crash."""
