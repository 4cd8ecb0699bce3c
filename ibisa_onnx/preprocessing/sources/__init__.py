"""Where preprocessing is read from: the file's metadata, files beside it, what frameworks write."""
