"""Speak with the Chandra archive: its releases, its catalog and its packages of files."""
