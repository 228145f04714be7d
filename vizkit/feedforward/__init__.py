"""Networks of our own that paint in one pass: style networks and the decoder behind `--prior`."""
