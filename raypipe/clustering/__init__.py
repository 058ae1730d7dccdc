"""Find clusters of detections without labels, and add them to the catalog."""
