"""Sources of preprocessing settings: metadata, files beside the model, framework configurations."""
