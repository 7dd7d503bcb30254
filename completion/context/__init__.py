"""Repository context: an index of the workspace, retrievers over it, and what of it a prompt gets."""
