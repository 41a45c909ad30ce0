"""Text that is safe to print: names from models, cards and paths are untrusted."""

from __future__ import annotations


def plain(text: object) -> str:
    """Return ``text`` as one line without control characters (escape sequences could repaint the terminal)."""
    return "".join(c if c.isprintable() else _escaped(c) for c in " ".join(str(text).split(" ")))


def _escaped(character: str) -> str:
    if character in "\n\t\r":
        return " "
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")
