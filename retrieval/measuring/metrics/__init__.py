"""What is measured of queries, one file a metric; `retrieval.measuring.metrics.registry` lists them."""
