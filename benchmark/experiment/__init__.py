"""One run: recipe, training, selection, test, stored result."""
