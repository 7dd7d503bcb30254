"""Code that `snowcoder try` types when no file is named; written for this project."""
