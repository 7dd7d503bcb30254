"""Takes in the events of many users over HTTP. Needs the extra `collector`."""
