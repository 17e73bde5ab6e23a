"""Shared by several families: feature encoders, matching, ranking, gathering over processes."""
