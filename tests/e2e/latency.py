"""How long after a key its suggestion is on screen in VS Code, and how much of that is not ours.

    python -m tests.e2e.latency

Types Python at 5 keys a second into a real window and prints a table in milliseconds. A key counts
if the server was asked after it and its answer changed what is on screen: text that was there
already, as when the user types along, takes no time. "Beyond the server" is the whole time less
what the server took from request to answer. VS Code itself waits 50 ms after each key; the
extension has the server at work meanwhile.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e import recorder, vscode
from tests.e2e.vscode import VSCodeDriver

KEY_S = 0.2
TYPED = """\
names = sorted(path.name for path in folder.glob("*.json"))
total = sum(len(name) for name in names)
print(f"{total} characters in {len(names)} names")
mean = total / len(names) if names else 0.0
longest = max(names, key=len, default="")
assert mean <= len(longest), "a mean is no more than the maximum"
"""

_WATCH = """
window.watched = {keys: [], ghosts: []};
const now = () => performance.timeOrigin + performance.now();
document.addEventListener("keydown", (event) => {
  window.watched.keys.push(performance.timeOrigin + event.timeStamp);
}, true);
const ghost = () => { %s };
let before = "";
const look = () => {
  const text = ghost();
  if (text !== before) {
    before = text;
    // The task after a frame's callbacks runs once that frame is drawn.
    requestAnimationFrame(() => setTimeout(() => window.watched.ghosts.push([now(), text])));
  }
};
new MutationObserver(look).observe(
  document.body, {subtree: true, childList: true, characterData: true, attributes: true});
"""


@dataclass(frozen=True, slots=True)
class Sample:
    """One suggestion that came on screen; milliseconds."""

    key_to_request: float
    server: float
    answer_to_screen: float

    @property
    def total(self) -> float:
        """From the key to the screen."""
        return self.key_to_request + self.server + self.answer_to_screen

    @property
    def beyond(self) -> float:
        """What of it was not the server's."""
        return self.total - self.server


def samples(log: Path, keys: list[float], ghosts: list[tuple[float, str]]) -> list[Sample]:
    """What came on screen because of an answer; `keys` and `ghosts` are in ms since 1970."""
    found = []
    for one in recorder.answered(log, "textDocument/inlineCompletion"):
        asked, answered = one.asked_at * 1000, one.answered_at * 1000
        before = [key for key in keys if key <= asked]
        if not before or not one.result:
            continue
        following = min((key for key in keys if key > asked), default=float("inf"))
        text = one.result[0]["insertText"]
        there = next((ghost for at, ghost in reversed(ghosts) if at <= before[-1]), "")
        if there.endswith(text):
            continue
        drawn = [at for at, ghost in ghosts if answered <= at < following and ghost == text]
        if drawn:
            found.append(Sample(asked - before[-1], answered - asked, drawn[0] - answered))
    return found


def measure(editor: VSCodeDriver, source: Path) -> list[Sample]:
    """Type `TYPED` into a file."""
    editor.open(source)
    editor.begin("from enum import")
    editor.page.execute_script(_WATCH % vscode.GHOST)
    for key in TYPED:
        editor.type(key)
        time.sleep(KEY_S)
    watched: dict[str, Any] = editor.page.execute_script("return window.watched")
    return samples(editor.log, watched["keys"], [(at, ghost) for at, ghost in watched["ghosts"]])


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        source = home / "project/backend.py"
        source.parent.mkdir()
        source.write_bytes((vscode.EXTENSION.parent / "models/backend.py").read_bytes())
        extensions = home / "extensions"
        vscode.install_extension(extensions)
        with vscode.window(home, extensions) as editor:
            found = measure(editor, source)
    print(f"{len(found)} suggestions on screen; ms        p50    p95")
    for label in ("total", "server", "beyond", "key_to_request", "answer_to_screen"):
        values = sorted(getattr(sample, label) for sample in found)
        p95 = values[int(0.95 * (len(values) - 1))]
        print(f"{label.replace('_', ' '):<34} {statistics.median(values):6.1f} {p95:6.1f}")


if __name__ == "__main__":
    main()
