"""Search for better settings of model and training with Ray Tune."""
