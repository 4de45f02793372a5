"""Pictures: curves, and contact sheets of queries with what they found."""
