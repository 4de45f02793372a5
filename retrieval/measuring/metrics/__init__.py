"""What is measured of queries, one file a metric; `retrieval.measuring.metrics.all_metrics` lists them."""
