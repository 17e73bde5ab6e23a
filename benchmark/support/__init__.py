"""What every other part may use: errors, files, places, memory, the hub."""
