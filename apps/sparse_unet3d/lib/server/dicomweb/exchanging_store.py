"""The datastore of a server whose images come from an archive."""

from typing import Any

from lib.server.store.datastore import SubmittedLabel

from .archived_store import ArchivedStore
from .exchange import Exchange


class ExchangingStore(ArchivedStore):
    """A project folder that, once it is served, exchanges annotations with its archive."""

    def __init__(self, *arguments: Any) -> None:
        """Open the folder; for the arguments see ``ArchivedStore``."""
        super().__init__(*arguments)
        self._exchange = Exchange(self)

    def serve(self, watch: bool) -> None:
        """Ask the archive for its images, then go on as a folder does, and exchange annotations from now on.

        If the archive can't be reached, the images of the folder are served.
        """
        self._exchange.list_images()
        super().serve(watch)
        self._exchange.start()

    def close(self) -> None:
        """End the exchange; a server needs no such call, since nothing is lost when it is killed."""
        self._exchange.end()

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]
    ) -> SubmittedLabel:
        """Store what a person painted in the folder, and then in the archive.

        If the archive hasn't got it within a few seconds, a warning says so, and it is sent later.
        """
        label = super().save_label(image_id, label_filename, label_tag, label_info)
        warnings = self._exchange.hurry(image_id, label.info["version"])
        return SubmittedLabel(label, {**label.info, "warnings": [*label.info["warnings"], *warnings]})

    def is_unreadable(self, image_id: str) -> bool:
        # While the archive can't be reached, the images that are here are offered first.
        return super().is_unreadable(image_id) or not (self._exchange.is_reachable() or self.is_here(image_id))

    def describe_emptiness(self) -> str:
        return f"{super().describe_emptiness()}; {self._exchange.describe()}"

    def describe_source(self) -> list[str]:
        return [self._exchange.describe()]
