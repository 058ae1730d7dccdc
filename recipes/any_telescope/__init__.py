"""Train the model that ships with the package."""
