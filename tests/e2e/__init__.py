"""Real editors against the real server; `make e2e` installs and drives them."""
