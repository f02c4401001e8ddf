"""What XML in a file must not do before a package parses it: refer to other files, or take much more memory than it."""

_FEWEST_CHARACTERS = 16
"""Fewest characters for each tag, on average; a parsed element takes hundreds of bytes."""

_FEW_TAGS = 1000
"""Tags that may be shorter."""


def check_xml(text: str) -> None:
    """Refuse document types, which XML attacks need, and many tiny elements.

    Raises:
        ValueError: there are some.
    """
    if "<!DOCTYPE" in text:
        raise ValueError("its XML has a document type, which may refer to other files")
    if text.count("<") > _FEW_TAGS + len(text) // _FEWEST_CHARACTERS:
        raise ValueError(f"its XML of {len(text)} characters has {text.count('<')} tags")
