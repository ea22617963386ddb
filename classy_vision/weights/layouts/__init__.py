"""How other libraries name the weights of our families, a table per family."""
