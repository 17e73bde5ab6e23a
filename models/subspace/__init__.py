"""Classical and subspace baselines."""
