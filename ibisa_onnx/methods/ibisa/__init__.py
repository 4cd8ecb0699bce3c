"""IBISA: its steps, with a gradient or from forward passes alone, and the check of its map."""
