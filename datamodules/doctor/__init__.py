"""`cmr-bench data check`: looks for missing, corrupt, duplicate and leaking data."""
