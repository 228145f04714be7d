"""Features of pictures in two dimensions: maps, their quality, new points, grids, clusters."""
