"""What is explained: one scalar a picture, behind the raw outputs of a model."""
