"""Names of files that a terminal, or rich, would take for something else."""

# The kind: what rich takes for an emoji, markup, a link, or something to highlight, and what a terminal takes
# for a command.
NAMES = [
    "s-000.tar:100:",
    ":smile:.jpg",
    "[red]x[/red].jpg",
    "[/].jpg",
    "[link=file:///x]y",
    "[bold",
    "\\[red]",
    "https://example.org/1.5",
    "\x1b[31mred",
    "a\nb",
    "\u202egpj.exe",
]


def plain(name: str) -> str:
    """As they must be printed."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
