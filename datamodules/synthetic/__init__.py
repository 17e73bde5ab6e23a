"""The built-in data set: drawn objects with captions."""
