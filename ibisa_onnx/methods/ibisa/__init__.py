"""IBISA: optimisation with gradients or from forward passes alone, and the check of its map."""
