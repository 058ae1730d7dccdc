"""Send requests over HTTP: identify raypipe, retry failures that may pass, bound time and bytes."""
