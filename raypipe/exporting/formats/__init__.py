"""The formats a catalog is exported in, each in the file of its name."""

FORMATS = ("fits", "votable", "hats", "parquet")
