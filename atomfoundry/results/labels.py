"""The table of labels: none is computed twice for the same frame and level."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from maggma.core import Store

from atomfoundry.documents import LabelDoc
from atomfoundry.results.mongo_language import count_by

_CHUNK = 400


class LabelStore:
    """Labels by (frame id, level id) in a maggma store.

    Parameters
    ----------
    store
        Any maggma store; connected here. For ``SQLiteStore`` use ``unique_fields=("frame_id", "level_id")``.
    """

    KEY = ("frame_id", "level_id")

    def __init__(self, store: Store) -> None:
        self.store = store
        self.store.connect()

    def get(self, frame_id: str, level_id: str) -> LabelDoc | None:
        """Return one label, or None.

        Parameters
        ----------
        frame_id
            Content hash of the frame.
        level_id
            Id of the level of theory.
        """
        return self.get_many([frame_id], level_id).get(frame_id)

    def get_many(self, frame_ids: Iterable[str], level_id: str) -> dict[str, LabelDoc]:
        """Return the labels that exist, failed ones included.

        Parameters
        ----------
        frame_ids
            Content hashes.
        level_id
            Id of the level of theory.

        Returns
        -------
        dict[str, LabelDoc]
            Frame id -> label.
        """
        wanted = list(dict.fromkeys(frame_ids))
        found: dict[str, LabelDoc] = {}
        for start in range(0, len(wanted), _CHUNK):
            criteria = {"frame_id": {"$in": wanted[start : start + _CHUNK]}, "level_id": level_id}
            for label in self.query(criteria):
                found[label.frame_id] = label
        return found

    def put(self, label: LabelDoc) -> None:
        """Store a label in place of an earlier one of the same frame and level.

        Parameters
        ----------
        label
            The label, or the record of its failure.
        """
        self.put_many([label])

    def put_many(self, labels: Iterable[LabelDoc]) -> None:
        """Store labels, all of them or none.

        Parameters
        ----------
        labels
            Labels.
        """
        documents = [label.model_dump(mode="json") for label in labels]
        if documents:
            self.store.update(documents, key=list(self.KEY))

    def count(self, criteria: dict | None = None) -> int:
        """Count labels.

        Parameters
        ----------
        criteria
            MongoDB filter on the fields of ``LabelDoc``.
        """
        return self.store.count(criteria)

    def count_by(self, *fields: str, where: dict | None = None) -> dict[tuple, int]:
        """Count labels by the values of fields, such as status and reason.

        Parameters
        ----------
        *fields
            Fields of ``LabelDoc``.
        where
            MongoDB filter on the fields of ``LabelDoc``.

        Returns
        -------
        dict[tuple, int]
            Values -> number of labels, in no certain order; None where a label has no value.
        """
        return count_by(self.store, fields, where)

    def query(
        self, criteria: dict | None = None, *, sort: dict[str, int] | None = None, limit: int = 0
    ) -> Iterator[LabelDoc]:
        """Find labels.

        Parameters
        ----------
        criteria
            MongoDB filter on the fields of ``LabelDoc``.
        sort
            Field -> 1, or -1 for the greatest first.
        limit
            At most so many; 0 is no limit.

        Yields
        ------
        LabelDoc
            Labels.
        """
        for document in self.store.query(criteria, sort=sort, limit=limit):
            document.pop("_id", None)
            yield LabelDoc.model_validate(document)
