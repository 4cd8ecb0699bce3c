"""Images, atomic file writes, and the overlay; independent of models."""
