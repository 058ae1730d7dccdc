"""Give detections and sources calibrated class probabilities, with context."""
