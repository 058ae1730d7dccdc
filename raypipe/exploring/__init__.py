"""Make the explorer: one HTML page with linked panels of a catalog, which opens offline."""
