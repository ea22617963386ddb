"""Which model a file is of."""
