"""The techniques, one a file; each file's first line is what the command list says of it."""
