"""Write the formats of exports, each in the module of its name."""

FORMATS = ("fits", "votable", "hats", "parquet")
