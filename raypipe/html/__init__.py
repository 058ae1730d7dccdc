"""Write pages and figures of one look."""
