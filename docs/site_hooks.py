"""Hooks of the documentation site: tutorials, which are the notebooks with their saved outputs, and links out of docs/."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
LONGEST = 60  # lines of an output


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each notebook: its text, its code, and the outputs that were saved with it."""
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        parts = [part for cell in cells for part in _parts(cell)]
        parts.insert(1, f"This page is `notebooks/{notebook.name}`, with the outputs that are saved in it.")
        place = f"tutorials/{notebook.stem}.md"
        files.append(File.generated(config, place, content="\n\n".join(parts) + "\n"))
    return files


def _parts(cell: Mapping[str, Any]) -> Iterator[str]:
    """Yield a cell of a notebook as Markdown, without the installing cell, and with a line instead of the framed report."""
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield source
        return
    if "def install(" in source:
        return
    yield f"```python\n{source}\n```"
    if "<iframe" in source:
        yield "(The report, in a frame.)"
        return
    said: list[str] = []
    for output in cell["outputs"]:
        data = output.get("data", {})
        if "image/png" in data:
            yield f"![The plot of the cell above](data:image/png;base64,{''.join(data['image/png'].split())})"
        else:
            said += COLOURS.sub("", "".join(output.get("text", data.get("text/plain", "")))).rstrip().splitlines()
    if said:
        yield "```text\n" + "\n".join([*said[:LONGEST], *(["…"] if len(said) > LONGEST else [])]) + "\n```"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace links to files that are in the repository but not on the site; a broken link stays, and fails the build."""

    def shown(link: re.Match[str]) -> str:
        path = link[2].partition("#")[0]
        return (link[1] if "`" in link[1] else f"{link[1]} (`{path}`)") if (ROOT / path).exists() else link[0]

    return re.sub(r"\[([^\]]+)\]\(\.\./([^)]+)\)", shown, markdown)
