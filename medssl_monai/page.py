"""One HTML page in one file: it needs no network, no other file, and no script to be read."""

from html import escape

STYLE = """* { box-sizing: border-box; }
body { margin: 0 auto; font-family: system-ui, -apple-system, "Segoe UI", sans-serif; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
"""


def html_page(title: str, body: str, *, style: str = "", head: str = "") -> str:
    """A whole page.

    Args:
        title: plain text.
        body: HTML.
        style: CSS beside what all pages share.
        head: further elements of the head, HTML.
    """
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"{head}<title>{escape(title)}</title>\n<style>\n{STYLE}{style}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )
