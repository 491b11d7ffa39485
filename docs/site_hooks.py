"""What the site needs beside mkdocs.yml: a link out of docs/ to a file of the repository is shown as the file's path."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace links to files that the repository has, and the site has not; a link to nothing stays, and fails the build."""

    def shown(link: re.Match[str]) -> str:
        path = link[2].partition("#")[0]
        return (link[1] if "`" in link[1] else f"{link[1]} (`{path}`)") if (ROOT / path).exists() else link[0]

    return re.sub(r"\[([^\]]+)\]\(\.\./([^)]+)\)", shown, markdown)
