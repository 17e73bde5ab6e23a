"""Results side by side: rows that may be compared, tables, output formats."""
