"""MkDocs hooks: pages from the top of the project, links that work on the site and in a clone, and no other hosts."""

import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = {
    ROOT / "README.md": "index.md",
    ROOT / "CONTRIBUTING.md": "contributing.md",
    ROOT / "CHANGELOG.md": "changelog.md",
}
ICON = ROOT / "upbit_assets" / "dashboard" / "static" / "icon.svg"
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)#:\s]+)(#[^)\s]*)?\)|(!)\[([^\]]*)\]\(([^)#:\s]+)\)")
FENCE = re.compile(r"^( *```.*?^ *```$)", re.MULTILINE | re.DOTALL)
OTHER_HOST = re.compile(r"^(https?:)?//", re.IGNORECASE)
IN_CSS = re.compile(r"""(?:url\(\s*|@import\s+)["']?((?:https?:)?//[^"')\s]+)""", re.IGNORECASE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for source, page in [*PAGES.items(), (ICON, "images/icon.svg")]:
        files.append(File.generated(config, page, abs_src_path=str(source)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Links to other pages point to them; what isn't on the site is named by its path."""
    folder = Path(str(page.file.abs_src_path)).resolve().parent

    def rewritten(link: re.Match[str]) -> str:
        text, path, anchor = link[1] or link[5] or "", link[2] or link[6], link[3] or ""
        target = Path(os.path.normpath(folder / path))
        if target in PAGES or target.is_relative_to(DOCS):
            on_site = PAGES.get(target) or target.relative_to(DOCS).as_posix()
            return f"{link[4] or ''}[{text}]({on_site}{anchor})"
        return f"`{target.relative_to(ROOT).as_posix()}`" if target.exists() else link[0]

    parts = FENCE.split(indented(markdown))
    return "".join(part if FENCE.match(part) else LINK.sub(rewritten, part) for part in parts)


def indented(markdown: str) -> str:
    """Git hosts indent what belongs to a list item as far as its text, Python-Markdown four columns."""
    lines, missing = [], 0
    for line in markdown.split("\n"):
        if marker := re.match(r"(?:[*-]|\d\.) ", line):
            missing = 4 - len(marker[0])
        elif line and not line.startswith(" "):
            missing = 0
        lines.append(" " * missing + line if line.startswith(" ") else line)
    return "\n".join(lines)


def on_post_page(output: str, page: Page, **_: Any) -> str:
    return output.replace('lang="en"', 'lang="ko"', 1) if page.file.src_uri.endswith(".ko.md") else output


def on_post_build(config: MkDocsConfig) -> None:
    if found := external_resources(Path(config.site_dir)):
        raise PluginError("The site loads from other hosts:\n" + "\n".join(found))


def external_resources(site: Path) -> list[str]:
    """What pages of the site load from other hosts: scripts, styles, fonts, images, frames. Links are none."""
    found = []
    for path in sorted(site.rglob("*")):
        if path.suffix == ".html":
            page = Resources()
            page.feed(path.read_text(encoding="utf-8"))
            urls = page.urls
        elif path.suffix in (".css", ".svg"):
            urls = IN_CSS.findall(path.read_text(encoding="utf-8"))
        else:
            continue
        found += [f"{path.relative_to(site)}: {url}" for url in urls if OTHER_HOST.match(url)]
    return found


class Resources(HTMLParser):
    """Collects the URLs that a page loads by itself. A diagram in Mermaid would load its script from a CDN."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            value = value or ""
            if name in ("src", "poster", "data") or (name == "href" and tag in ("link", "use", "image")):
                self.urls.append(value)
            elif name == "srcset":
                self.urls += [each.split()[0] for each in value.split(",") if each.strip()]
            elif name == "style":
                self.urls += IN_CSS.findall(value)
            elif name == "class" and "mermaid" in value.split():
                self.urls.append("//mermaid")

    def handle_data(self, data: str) -> None:
        if self.get_starttag_text() == "<style>":
            self.urls += IN_CSS.findall(data)
