"""MELODI memory for MaxText."""
