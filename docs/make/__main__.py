"""`python -m docs.make` writes what is made from the code, and names the files that changed."""

from __future__ import annotations

from docs.make import FOLDER, MADE

for name, make in MADE.items():
    path, text = FOLDER / name, make()
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
        print(path)
