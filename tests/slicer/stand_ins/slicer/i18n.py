"""Stand-in for Slicer's translations: everything stays English."""


def tr(text: str) -> str:
    return text


def translate(context: str, text: str) -> str:
    return text
