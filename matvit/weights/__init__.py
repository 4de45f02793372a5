"""Models on disk, on the hub and from others: checkpoints, names, published weights."""
