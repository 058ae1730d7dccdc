"""The search for better settings, with Ray Tune."""
