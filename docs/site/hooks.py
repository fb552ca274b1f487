"""Pages of the site that are not in docs/: README, changelog, and the sources that pages link to.

README.md                  ─► index.md            links docs/GUIDE.md become GUIDE.md
CHANGELOG.md               ─► CHANGELOG.md
../tasks/base.py in a page ─► files/tasks/base.py
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
PAGES = {"README.md": "index.md", "CHANGELOG.md": "CHANGELOG.md", "CONTRIBUTING.md": "CONTRIBUTING.md"}
LINK = re.compile(r"(\]\(|src=\")(?!https?:|#)([^)#\"\s]+)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages and the sources."""
    texts = [page.content_string for page in files.documentation_pages()]
    for source, name in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        texts.append(text)
        files.append(File.generated(config, name, content=_in_site(text, "")))
    for text in texts:
        for _, target in LINK.findall(text):
            path = target.removeprefix("../")
            if path not in PAGES and not path.startswith("docs/") and (ROOT / path).is_file():
                name = f"files/{path}"
                if files.get_file_from_path(name) is None:
                    files.append(File.generated(config, name, content=(ROOT / path).read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let the links of a page of docs/ lead to pages of the site."""
    return markdown if page.file.generated_by else _in_site(markdown, "../")


def _in_site(text: str, up: str) -> str:
    """Return a text whose links to files of the repository lead to the site.

    up: from the folder of the text to the root of the repository.
    """

    def moved(link: re.Match[str]) -> str:
        start, target = link[1], link[2]
        if up and not target.startswith(up):
            return link[0]
        path = target.removeprefix(up)
        if path in PAGES:
            return start + PAGES[path]
        if path.startswith("docs/"):
            return start + path.removeprefix("docs/")
        return f"{start}files/{path}" if (ROOT / path).is_file() else link[0]

    return LINK.sub(moved, text)
