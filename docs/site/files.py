"""Links to files and folders of the repository lead to pages that show them, with line numbers.

Sphinx alone offers a file as a download, and has no answer for a folder.
"""

import posixpath
from collections.abc import Iterator
from html import escape
from pathlib import Path

from docutils import nodes
from downloads import PROJECT, made_from
from pygments.lexers import get_lexer_for_filename
from pygments.util import ClassNotFound
from sphinx import addnodes
from sphinx.transforms import SphinxTransform
from sphinx.util.osutil import relative_uri

KEPT_BACK = "notebooks/solutions"  # whoever has the project has them
linked: set[str] = set()  # files and folders that pages link to


class FileLinks(SphinxTransform):
    """Runs when a page has been read, before Sphinx looks for the targets of its links."""

    default_priority = 500

    def apply(self) -> None:
        here = self.env.docname
        for link in [
            *self.document.findall(addnodes.pending_xref),
            *self.document.findall(addnodes.download_reference),
        ]:
            is_page = link.get("refdomain") == "doc"  # then its target is named from the root
            path = posixpath.normpath(posixpath.join("" if is_page else posixpath.dirname(here), link["reftarget"]))
            if path.startswith(KEPT_BACK):
                uri = relative_uri(self.app.builder.get_target_uri(here), PROJECT)
                where = nodes.reference("", Path(PROJECT).name, refuri=uri, internal=True)
                link.replace_self([*link.children, nodes.Text(" in "), where])
            elif (file := made_from(self.app, path)) is not None:
                uri = relative_uri(self.app.builder.get_target_uri(here), file)
                link.replace_self(nodes.reference("", "", *link.children, refuri=uri, internal=True))
            elif not is_page and (text := shown(self.env.srcdir / path)) is not None:
                linked.add(path)
                uri = relative_uri(self.app.builder.get_target_uri(here), f"source/{path}.html")
                if link.next_node(nodes.literal):
                    uri += line_of(link.astext(), text)
                link.replace_self(nodes.reference("", "", *link.children, refuri=uri, internal=True))


def shown(path: Path) -> str | None:
    """The text of a file, an empty one for a folder, and None for what a page cannot show."""
    try:
        return "" if path.is_dir() else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def line_of(code: str, text: str) -> str:
    """The anchor of the line with the code, or the function, that a link quotes."""
    places = [place for quoted in (f"def {code}(", code) if (place := text.find(quoted)) >= 0]
    return f"#L-{text.count(chr(10), 0, places[0]) + 1}" if places else ""


def pages(app) -> Iterator[tuple[str, dict, str]]:
    """The pages of linked files and folders, and of what is in these folders."""
    waiting, done = sorted(linked), set()
    while waiting:
        path = waiting.pop()
        if path in done:
            continue
        done.add(path)
        file = Path(app.srcdir, path)
        if file.is_dir():
            names = sorted(child.name for child in file.iterdir() if not child.name.startswith((".", "__pycache__")))
            children = {name: f"{path}/{name}" for name in names if f"{path}/{name}" != KEPT_BACK}
            waiting += [child for child in children.values() if is_source(app, child)]
            body = "".join(f"<li>{entry(app, path, name, child)}</li>\n" for name, child in children.items())
            body = f"<ul>\n{body}</ul>"
        else:
            body = highlighted(app, file)
        yield f"source/{path}", {"title": path, "body": f"<h1>{escape(path)}</h1>\n{body}"}, "page.html"


def is_source(app, path: str) -> bool:
    return app.env.path2doc(path) not in app.env.found_docs and shown(Path(app.srcdir, path)) is not None


def entry(app, folder: str, name: str, path: str) -> str:
    """A line of a folder's page: a link, where the site has something to show."""
    if is_source(app, path):
        target = f"source/{path}"
    elif app.env.path2doc(path) in app.env.found_docs:
        target = app.env.path2doc(path)
    else:
        return escape(name)
    return f'<a href="{escape(relative_uri(f"source/{folder}.html", f"{target}.html"))}">{escape(name)}</a>'


def highlighted(app, file: Path) -> str:
    try:
        language = get_lexer_for_filename(file.name).aliases[0]
    except ClassNotFound:
        language = "text"
    return app.builder.highlighter.highlight_block(
        file.read_text(encoding="utf-8"), language, linenos="inline", lineanchors="L", anchorlinenos=True
    )


def setup(app) -> None:
    app.add_transform(FileLinks)
    app.connect("html-collect-pages", pages)
