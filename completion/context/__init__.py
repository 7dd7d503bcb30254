"""Repository context: an index of the workspace, retrievers, and what of it a prompt gets."""
