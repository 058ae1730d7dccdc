"""Make the catalog of a new release from an earlier one, and compare releases."""
