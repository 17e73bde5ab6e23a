"""Recipes: what a run differs in from the constructor defaults, and why."""
