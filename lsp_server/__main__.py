"""`python -I -m lsp_server`: the same as the `snowcoder` command."""

from lsp_server.entry import main

if __name__ == "__main__":
    main()
