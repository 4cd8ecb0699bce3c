"""Pictures, files written whole or not at all, and the overlay: knows nothing of models."""
