"""The page about a catalog: figures, tables and what they were made of."""
