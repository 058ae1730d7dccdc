"""Write the report on a catalog: its figures, its tables and their data."""
