"""Keep a workspace's files: tables in parts, publication, locks and run records."""
