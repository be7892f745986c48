"""Positions of clients, whose epoch is the place where they began."""

from __future__ import annotations

import pytest

from simple_ws.cluster.history import History
from simple_ws.cluster.since import UNKNOWN, start
from simple_ws.live.positions import Claim, epoch_of

pytestmark = pytest.mark.one_backend


def history(*tags: int, epoch: str = "abcd") -> History:
    made = History(10, epoch=epoch)
    for tag in tags:
        made.append(tag, f"{tag}", 0.0)
    return made


def after(claim: Claim, known: History) -> int | None:
    """The offset after which the client begins; None: it has missed something."""
    since = claim.since(known)
    begin = start(known, since, 0.0)
    return begin.after if begin.gap == 0 else None


def test_client_goes_on_where_it_was() -> None:
    known = history(11, 12)
    epoch = epoch_of(known.position)
    assert after(Claim(epoch, 2), known) == 2
    known.append(13, "13", 0.0)
    known.append(14, "14", 0.0)
    assert after(Claim(epoch, 2), known) == 2
    assert after(Claim(epoch, 3), known) == 3
    assert after(Claim(epoch, 5), known) is None


def test_history_that_lost_its_end_is_another() -> None:
    epoch = epoch_of(history(11, 12).position)
    promoted = history(11, 99, 98)  # the second message was lost, and its offset given
    assert after(Claim(epoch, 2), promoted) is None
    assert after(Claim(epoch, 3), promoted) is None
    assert after(Claim(epoch_of(history(11).position), 1), promoted) == 1


@pytest.mark.parametrize("epoch", ["x", "abcd", "beef:1:", "abcd:1:zzzz"])
def test_epochs_of_others_are_unknown(epoch: str) -> None:
    assert Claim(epoch, 1).since(history(11, 12)) is UNKNOWN


def test_no_epoch_is_that_of_any_history() -> None:
    assert after(Claim("", 1), history(11, 12)) == 1
    assert after(Claim("", 3), history(11, 12)) is None
    assert after(Claim("", 2**70), history(11, 12)) is None
