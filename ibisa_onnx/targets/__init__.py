"""Explanation targets: one scalar per image, computed from the raw outputs of a model."""
