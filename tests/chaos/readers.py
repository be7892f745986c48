"""A client of a topic with history: what it has got, connection after connection.

It gives its position when it comes back. While it has one it counts, as a browser
does: each message has the next offset, and so has each that it is told to have missed.
"""

from __future__ import annotations

from ledger import Ledger, Session

__all__ = ["HISTORY_BEGINS", "Reader"]

#: `since` of a reader that begins: so many last messages.
HISTORY_BEGINS = "20"


class Reader:
    """One client.

    Args:
        ledger: of the run.
        whole: the history is so large that nobody may miss anything.

    Attributes:
        session: what it has got since it began, or since it had to begin again.
    """

    def __init__(self, ledger: Ledger, whole: bool) -> None:
        self._ledger, self._whole = ledger, whole
        self.session: Session | None = None
        self._epoch, self._offset = "", 0  # "": it does not know where it is
        self._wipes = 0
        self._missed: list[tuple[int, int]] | None = None  # until `on_join`

    @property
    def in_step(self) -> bool:
        """It has got what it had missed, and gets what is published from now on."""
        return self._missed is None

    def since(self) -> str:
        """What it says when it connects; from then on it is on its way."""
        self._missed = []
        if not self._epoch:
            self._leave()
            return HISTORY_BEGINS
        return f"{self._epoch}:{self._offset}"

    def on_message(self, node: int, number: int) -> None:
        """A message has come."""
        if self._missed is not None:
            self._missed.append((node, number))
            return
        assert self.session is not None
        self.session.note_message(node, number)
        self._offset += 1

    def on_gap(self, missing: str) -> None:
        """`on_gap` was called while it was in step."""
        self._judge_gap(missing)
        self._miss(missing)
        if missing == "None":
            self._epoch = ""
            if self.session is not None:
                self.session.begin_part(f"after loss {self._wipes}")

    def on_join(self, position: str, recovered: str, gap: str) -> None:
        """It has got what it had missed."""
        missed, self._missed = self._missed or [], None
        epoch, offset, _ = position.split(":")
        if int(recovered) != len(missed):
            self._note(f"{recovered} recovered, but {len(missed)} came")
        if gap != "0":
            self._judge_gap(gap)
        if gap == "None":
            self._leave()
        elif self._epoch:
            self._miss(gap)
            wanted = f"{self._epoch}:{self._offset + len(missed)}"
            if f"{epoch}:{offset}" != wanted:
                self._note(f"it is at {epoch}:{offset} after a join, not at {wanted}")
        if self.session is None:
            self.session = self._ledger.reader()
            self.session.begin_part(epoch)
            self._wipes = self._ledger.wipes
        for node, number in missed:
            self.session.note_message(node, number)
        self._epoch, self._offset = epoch, int(offset)

    def _miss(self, missing: str) -> None:
        """It was told to have missed so many."""
        if self.session is not None and missing != "0":
            # They are of any nodes; that they are so many is seen at the next join.
            self.session.note_gap("None")
        self._offset += int(missing) if missing.isdigit() else 0

    def _judge_gap(self, missing: str) -> None:
        """There is one only if the engine has lost its data, or the history is small.

        Whether a gap of unknown size was told for a loss is known for each loss once.
        """
        if missing != "None":
            right = not self._whole
        else:
            right = self._wipes < self._ledger.wipes
            self._wipes = self._ledger.wipes
        if not right:
            self._note(f"a gap of {missing}, and the engine has all")

    def _leave(self) -> None:
        """It cannot go on from where it was: it begins again, as another one."""
        if self.session is not None:
            self.session.open = False
        self.session = None

    def _note(self, text: str) -> None:
        number = "new" if self.session is None else self.session.number
        self._ledger.note("a reader of the history", f"{text} (reader {number})")
