"""Lets pages link to files of the repository that lie outside `docs/`.

On a code host `../experiments/x.md` is a file; the site has no such page. Files that a
page links to are copied to `files/` of the site, and the links point there.
"""

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

LINK = re.compile(r"\]\((\.\./[^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the linked files, as they are."""
    for page in list(files.documentation_pages()):
        for link in LINK.findall(page.content_string):
            path = _outside(page.src_uri, link, config)
            if path and path.is_file():
                uri = _site_uri(path, config)
                if not files.get_file_from_path(uri):
                    added = File.generated(config, uri, abs_src_path=str(path))
                    # A Markdown file is not a page of the site.
                    added.dest_uri = uri
                    files.append(added)
    return files


def on_page_markdown(
    markdown: str, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Points the links to the copies."""
    folder = os.path.dirname(page.file.src_uri)

    def copied(match: re.Match) -> str:
        path = _outside(page.file.src_uri, match[1], config)
        if not path:
            return match[0]
        return f"]({os.path.relpath(_site_uri(path, config), folder)}"

    return LINK.sub(copied, markdown)


def _outside(page_uri: str, link: str, config: MkDocsConfig) -> Path | None:
    docs = Path(config.docs_dir)
    path = Path(os.path.normpath(docs / os.path.dirname(page_uri) / link))
    return None if path.is_relative_to(docs) else path


def _site_uri(path: Path, config: MkDocsConfig) -> str:
    uri = f"files/{path.relative_to(Path(config.docs_dir).parent).as_posix()}"
    return f"{uri}.txt" if uri.endswith((".md", ".jsonl", ".toml")) else uri
