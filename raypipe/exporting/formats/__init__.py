"""Write the formats of exports, each in the module of its name."""

FORMATS = ("fits", "votable", "hats", "parquet")
"""Formats of tables."""

RESPONSES = "ogip"
"""Format of the responses, which are no table."""
