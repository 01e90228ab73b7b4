"""Errors that others raise, in plain words on one line."""

from __future__ import annotations


def plain(error: BaseException) -> str:
    """What an operating system's error says without its number, after the file it names."""
    if isinstance(error, OSError) and error.strerror:
        named = "" if error.filename is None else f"{error.filename}: "
        return f"{named}{error.strerror}"
    return " ".join(str(error).split())


def reason(error: BaseException) -> str:
    """The same where the file is named already."""
    return getattr(error, "strerror", None) or plain(error)
