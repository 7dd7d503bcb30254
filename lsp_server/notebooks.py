"""Notebooks: the code cells of one notebook are one document, in their order (LSP 3.17).

A cell keeps its own URI and positions. For a completion the cells before and after it become
text before and after the cursor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lsprotocol import types

from lsp_server.documents import Cursor, Documents

SYNC = types.NotebookDocumentSyncOptions(
    notebook_selector=[
        types.NotebookDocumentFilterWithCells(
            cells=[types.NotebookCellLanguage(language="python")],
            notebook=types.NotebookDocumentFilterNotebookType(notebook_type="*"),
        )
    ]
)


class Notebooks:
    """The notebooks that the client has open. Texts of cells are in `documents`."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self._cells: dict[str, list[types.NotebookCell]] = {}

    def open(self, params: types.DidOpenNotebookDocumentParams) -> None:
        """Follow a notebook and its cells."""
        self._cells[params.notebook_document.uri] = list(params.notebook_document.cells)
        self._open_cells(params.cell_text_documents)

    def change(self, params: types.DidChangeNotebookDocumentParams) -> None:
        """Apply a change of the cells' order, kinds or texts.

        Raises:
            DocumentError: a changed cell is not open.
        """
        changes = params.change.cells
        if changes is None:
            return
        cells = self._cells.setdefault(params.notebook_document.uri, [])
        if (structure := changes.structure) is not None:
            array = structure.array
            cells[array.start : array.start + array.delete_count] = array.cells or []
            self._open_cells(structure.did_open or [])
            for closed in structure.did_close or []:
                self._documents.close(closed.uri)
        for changed in changes.data or []:
            for index, cell in enumerate(cells):
                if cell.document == changed.document:
                    cells[index] = changed
        for text in changes.text_content or []:
            self._documents.change(text.document.uri, text.changes)

    def close(self, params: types.DidCloseNotebookDocumentParams) -> None:
        """Forget a notebook and its cells."""
        self._cells.pop(params.notebook_document.uri, None)
        for cell in params.cell_text_documents:
            self._documents.close(cell.uri)

    def _open_cells(self, items: Sequence[types.TextDocumentItem]) -> None:
        for item in items:
            self._documents.open(item.uri, item.text, item.language_id)

    def notebook_of(self, uri: str) -> str | None:
        """URI of the notebook that a cell is in, or None."""
        for notebook, cells in self._cells.items():
            if any(cell.document == uri for cell in cells):
                return notebook
        return None

    def widen(self, uri: str, cursor: Cursor) -> Cursor:
        """`cursor` in a cell as a place in the text of the whole notebook.

        Cells of another kind or language are left out; each cell ends with a line break.
        """
        notebook = self.notebook_of(uri)
        own = self._documents.get(uri)
        if notebook is None or own is None:
            return cursor
        before: list[str] = []
        after: list[str] = []
        part = before
        for cell in self._cells[notebook]:
            if cell.document == uri:
                part = after
                continue
            document = self._documents.get(cell.document)
            is_code = cell.kind == types.NotebookCellKind.Code
            if is_code and document is not None and document.language == own.language:
                part.append(document.text.rstrip("\r\n"))
        head = "".join(f"{text}\n" for text in before)
        tail = "".join(f"\n{text}" for text in after)
        shift = len(head)
        return replace(
            cursor,
            text=head + cursor.text + tail,
            offset=cursor.offset + shift,
            line_start=cursor.line_start + shift,
        )
