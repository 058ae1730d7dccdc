"""Show objects to people: figures of one look, and short tables for notebooks."""
