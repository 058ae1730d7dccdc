"""Write pages of one look."""
