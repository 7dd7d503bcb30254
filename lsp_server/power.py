"""Whether the machine runs on battery. Known on Linux only; elsewhere it counts as plugged in."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

_SUPPLIES = Path("/sys/class/power_supply")
_FRESH_S = 15.0


def on_battery(supplies: Path = _SUPPLIES) -> bool:
    """Whether a battery of the system itself discharges and no mains supply is online."""
    discharging = False
    try:
        for supply in supplies.iterdir():
            kind = _read(supply / "type")
            if kind in ("Mains", "USB") and _read(supply / "online") == "1":
                return False
            # Mice and headsets have batteries too; their scope is the device.
            if kind == "Battery" and _read(supply / "scope") != "Device":
                discharging |= _read(supply / "status") == "Discharging"
    except OSError:
        return False
    return discharging


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


class Power:
    """Asks the system at most every fifteen seconds."""

    def __init__(self, ask: Callable[[], bool] = on_battery) -> None:
        self._ask = ask
        self._answer = False
        self._asked: float | None = None

    def on_battery(self) -> bool:
        """See `on_battery`."""
        now = time.monotonic()
        if self._asked is None or now - self._asked > _FRESH_S:
            self._answer, self._asked = self._ask(), now
        return self._answer
