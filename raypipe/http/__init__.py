"""Send requests over HTTP: identify raypipe, retry what may pass, bound time and bytes."""
