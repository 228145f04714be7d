"""One pass over an image folder: an index on disk that answers every other question about it."""
