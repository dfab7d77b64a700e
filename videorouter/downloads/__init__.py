"""One file: whole, or absent."""
