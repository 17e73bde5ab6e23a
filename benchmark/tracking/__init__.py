"""Runs on Weights & Biases: while they run, and uploaded later."""
