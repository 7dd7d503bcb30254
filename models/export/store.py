"""`model.data`, written tensor by tensor, so that an interrupted export goes on where it stopped.

Memory holds one matrix at a time, whatever the size of the model. Beside the data lies a journal:
one line for each group of tensors that is safely on disk. Whoever opens the store again with the
same key keeps those groups; what was half written is cut off.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

Tensors = Mapping[str, NDArray[np.generic]]
DATA = "model.data"
JOURNAL = "model.journal"
_ALIGNMENT = 64


class TensorStore:
    """External data of an ONNX graph under construction.

    Attributes:
        resumed: groups that an earlier, interrupted export had finished.
    """

    def __init__(self, directory: Path, key: str = "") -> None:
        """Open or go on; `key` says what is being exported, and how. No key never goes on."""
        self._entries: dict[str, dict[str, dict[str, Any]]] = {}
        end = self._read_journal(directory / JOURNAL, key) if key else 0
        self.resumed = len(self._entries)
        self._path = directory / DATA
        self._data = self._path.open("r+b" if self.resumed else "wb")
        self._data.truncate(end)
        self._data.seek(end)
        self._journal = (directory / JOURNAL).open("w", encoding="utf-8")
        self._write_line({"key": key})
        for group, tensors in self._entries.items():
            self._write_line({"group": group, "tensors": tensors})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._data.close()
        self._journal.close()

    def _read_journal(self, path: Path, key: str) -> int:
        """Take over the finished groups; returns where their data ends."""
        data = path.with_name(DATA)
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
            size = data.stat().st_size
        except OSError:
            return 0
        end = 0
        for number, line in enumerate(lines):
            try:
                entry = json.loads(line)
            except ValueError:
                break  # the interruption hit this line
            if number == 0:
                if entry != {"key": key}:
                    break
                continue
            group_end = max(one["offset"] + one["length"] for one in entry["tensors"].values())
            if group_end > size:
                break
            self._entries[entry["group"]] = entry["tensors"]
            end = group_end
        return end

    def _write_line(self, value: object) -> None:
        self._journal.write(json.dumps(value) + "\n")
        self._journal.flush()

    def add(self, group: str, produce: Callable[[], Tensors]) -> None:
        """Store the tensors that `produce` returns, unless an earlier export did."""
        if group in self._entries:
            return
        entries: dict[str, dict[str, Any]] = {}
        for name, tensor in produce().items():
            self._data.write(b"\0" * (-self._data.tell() % _ALIGNMENT))
            offset = self._data.tell()
            self._data.write(np.ascontiguousarray(tensor).data)
            entries[name] = {
                "dtype": tensor.dtype.str,
                "dims": list(tensor.shape),
                "offset": offset,
                "length": tensor.nbytes,
            }
        self._data.flush()
        os.fsync(self._data.fileno())
        self._entries[group] = entries
        self._write_line({"group": group, "tensors": entries})

    def protos(self) -> list[onnx.TensorProto]:
        """References into the data file, for the graph."""
        protos = []
        for tensors in self._entries.values():
            for name, entry in tensors.items():
                kind = helper.np_dtype_to_tensor_dtype(np.dtype(entry["dtype"]))
                proto = onnx.TensorProto(name=name, data_type=kind, dims=entry["dims"])
                proto.data_location = onnx.TensorProto.EXTERNAL
                place = {"location": DATA, "offset": entry["offset"], "length": entry["length"]}
                for key, value in place.items():
                    proto.external_data.add(key=key, value=str(value))
                protos.append(proto)
        return protos
