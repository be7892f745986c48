"""The promises of an engine that keeps histories as tests: all of `engines`, and more.

    from simple_ws.testing.histories import HistoryConformance

    class TestMyEngine(HistoryConformance):
        ...  # as for EngineConformance

Each test has topics of its own, so that the server may be older than the test.
"""

from __future__ import annotations

import random
import secrets

from ..cluster.engine import (
    Accepted,
    Delivered,
    Engine,
    Failed,
    Origin,
    Page,
    Stored,
    Subscribed,
)
from ..cluster.history import Entry, Retention
from ..cluster.position import MAX_OFFSET, Position, parse_position
from .engines import EngineConformance, Transport

__all__ = ["HistoryConformance", "position_of"]

_ALL = Retention(1000, None)


def position_of(event: Delivered) -> tuple[Position, bytes]:
    """The position of a message that was appended, and its envelope."""
    place, space, envelope = event.envelope.partition(b" ")
    position = parse_position(place.decode())
    assert space, event
    assert position is not None, event
    return position, envelope


class HistoryConformance(EngineConformance):
    """Tests of an `Engine` that has histories; see `EngineConformance`.

    Attributes:
        kept_prefix: begins the names of topics' channels, which end with `}e`.
    """

    kept_prefix = "{sws.k."

    # Tools for tests of one's own

    def setup_method(self) -> None:
        """Called by pytest before each test."""
        super().setup_method()
        self._topics = secrets.token_hex(4)

    def pass_time(self, seconds: float) -> None:
        """Let the time of a server pass; the default waits for a real one's."""

    def kept(self, name: str) -> str:
        """The channel of a topic with history."""
        return f"{self.kept_prefix}{self._topics}.{name}}}e"

    def append(
        self,
        here: Transport,
        channel: str,
        seq: int,
        body: bytes = b"x",
        *,
        publisher: bytes = b"somebody",
        key: str | None = None,
        retention: Retention = _ALL,
    ) -> None:
        """Append a message; its answer comes later."""
        origin = Origin(publisher, seq, key)
        here.engine.append(channel, body, origin, retention)

    def store(
        self, here: Transport, channel: str, *bodies: bytes, start: int = 1
    ) -> list[Stored]:
        """Append messages, with numbers from `start`; return the answers."""
        count = len(here.of(Stored))
        for seq, body in enumerate(bodies, start):
            self.append(here, channel, seq, body)
        here.until_event(Stored, count + len(bodies))
        return here.of(Stored)[count:]

    def page(
        self,
        here: Transport,
        channel: str,
        known: Position | None = None,
        after: int = 0,
        limit: int = 256,
    ) -> Page:
        """Read one page."""
        count = len(here.of(Page))
        here.engine.read(channel, known, after, limit)
        return here.until_event(Page, count + 1)

    def history(
        self, here: Transport, channel: str, known: Position | None = None
    ) -> list[Entry]:
        """Read all that comes after a position."""
        after = 0 if known is None else known.offset
        entries: list[Entry] = []
        while True:
            page = self.page(here, channel, known, after)
            entries += page.entries
            if not page.entries or page.entries[-1].offset == page.top:
                return entries
            after = page.entries[-1].offset
            known = Position(page.epoch, after, page.entries[-1].tag)

    # Appending

    def test_what_is_appended_is_delivered_and_read(self) -> None:
        """With the same positions, one after the other, in the same order; answers come
        in the order of all messages."""
        channel, plain = self.kept("a"), self.channel("a")
        here, other = self.enter(channel), self.enter(channel)
        bodies = [b"", b"\r\n$3\r\n\0\xff", bytes(range(256)) * 1024, b" a:1: b"]
        for seq, body in enumerate(bodies, 1):
            self.append(here, channel, seq, body)
            here.engine.publish(plain, body)
        for node in (here, other):
            node.until_event(Delivered, len(bodies))
        here.until_event(Accepted, len(bodies))
        answers = [e for e in here.events if isinstance(e, Accepted | Stored)]
        assert [type(event) for event in answers] == [Stored, Accepted] * len(bodies)
        assert here.of(Delivered) == other.of(Delivered)
        delivered = list(map(position_of, here.of(Delivered)))
        assert [body for _, body in delivered] == bodies
        stored = here.of(Stored)
        assert stored == [Stored(place, False, 2) for place, _ in delivered]
        page = self.page(other, channel)
        assert page[:4] == (channel, stored[0].position.epoch, len(bodies), False)
        assert [Position(page.epoch, e.offset, e.tag) for e in page.entries] == [
            place for place, _ in delivered
        ]
        assert [entry.body for entry in page.entries] == bodies
        assert [entry.offset for entry in page.entries] == [1, 2, 3, 4]
        assert all(0 <= entry.time < self.timeout for entry in page.entries)

    def test_nodes_that_append_at_once_see_one_order(self) -> None:
        """And offsets without holes, each of another message."""
        channel = self.kept("a")
        nodes = [self.enter(channel) for _ in range(3)]
        for seq in range(1, 101):
            for number, node in enumerate(nodes):
                self.append(node, channel, seq, b"%d" % seq, publisher=b"%d" % number)
            if seq % 7 == 0:
                self._turn()
        for node in nodes:
            node.until_event(Delivered, 300)
            node.until_event(Stored, 100)
        first, *others = [node.of(Delivered) for node in nodes]
        assert others == [first, first]
        places = [position_of(event)[0] for event in first]
        assert [place.offset for place in places] == list(range(1, 301))
        assert len({place.epoch for place in places}) == 1
        assert len({place.tag for place in places}) > 290
        entries = self.history(nodes[0], channel)
        assert [e.body for e in entries] == [position_of(e)[1] for e in first]

    def test_a_number_is_appended_once(self) -> None:
        """After a connection that was lost as well, by the same publisher alone."""
        channel, other = self.kept("a"), self.kept("b")
        here = self.enter(channel)
        first = self.store(here, channel, b"1", b"2")
        here = self.again(here)
        here.until_event(Subscribed)
        for seq in (2, 1, 3, 3):
            self.append(here, channel, seq, b"%d" % seq)
        self.append(here, channel, 1, b"other", publisher=b"nobody")
        self.append(here, other, 1, b"elsewhere")
        here.until_event(Stored, 6)
        answers = here.of(Stored)
        assert [event.again for event in answers] == [
            True,
            True,
            *[False, True],
            *[False] * 2,
        ]
        assert [event.position for event in answers[:2]] == [first[1].position] * 2
        assert answers[2].position == answers[3].position
        assert [event.receivers for event in answers] == [0, 0, 1, 0, 1, 0]
        bodies = [entry.body for entry in self.history(here, channel)]
        assert bodies == [b"1", b"2", b"3", b"other"]
        assert len(here.of(Delivered)) == 2

    def test_a_key_is_appended_once(self) -> None:
        """Whoever publishes it, as long as its message can be read."""
        channel, kept = self.kept("a"), Retention(2, None)
        here, other = self.enter(channel), self.enter()
        places: list[Position] = []

        def append(by: Transport, seq: int, key: str | None) -> Stored:
            count = len(by.of(Stored))
            publisher = b"%d" % self._transports.index(by)
            self.append(by, channel, seq, publisher=publisher, key=key, retention=kept)
            stored = by.until_event(Stored, count + 1)
            places.append(stored.position)
            return stored

        assert not append(here, 1, "a").again
        assert append(here, 2, "a") == Stored(places[0], True)
        assert append(other, 1, "a") == Stored(places[0], True)
        assert append(other, 1, "b") == Stored(places[0], True)  # its number is old
        assert not append(other, 2, "").again
        assert append(here, 3, "") == Stored(places[4], True)
        assert append(here, 4, "a") == Stored(places[0], True)
        assert not append(here, 5, None).again
        assert not append(here, 6, "a").again  # its message has left the history
        assert append(other, 7, "\ud800\r\n").again is False
        assert [entry.offset for entry in self.history(here, channel)] == [4, 5]

    def test_only_so_many_are_kept(self) -> None:
        """The last ones; a rule that changes holds from the next message on."""
        channel = self.kept("a")
        here = self.enter()
        offsets: list[list[int]] = []
        for seq, size in enumerate([3] * 7 + [5, 5, 5, 1, 4, 4], 1):
            self.append(here, channel, seq, retention=Retention(size, 60.0))
            entries = self.history(here, channel)
            offsets.append([entry.offset for entry in entries])
        assert offsets[:4] == [[1], [1, 2], [1, 2, 3], [2, 3, 4]]
        assert offsets[6] == [5, 6, 7]
        assert offsets[9][-3:] == [8, 9, 10]
        assert len(offsets[9]) <= 5
        assert offsets[10:] == [[11], *offsets[11:]]
        assert offsets[12][-3:] == [11, 12, 13]

    def test_they_are_kept_only_so_long(self) -> None:
        """The topic goes on with its offsets, and knows its positions."""
        channel, kept = self.kept("a"), Retention(100, 0.05)
        here = self.enter()
        for seq in range(1, 4):
            self.append(here, channel, seq, key="k", retention=kept)
            here.until_event(Stored, seq)  # again, if this is fast enough
        self.pass_time(0.06)
        here.until(lambda: not self.page(here, channel).entries)
        last = [event.position for event in here.of(Stored)][-1]
        page = self.page(here, channel, last, last.offset)
        assert page == Page(channel, last.epoch, last.offset, False, [])
        self.append(here, channel, 4, key="k", retention=kept)
        stored = here.until_event(Stored, 4)
        assert not stored.again
        assert stored.position[:2] == (last.epoch, last.offset + 1)
        self.append(here, channel, 5, b"new", retention=Retention(100, 60.0))
        assert self.history(here, channel)[-1].body == b"new"

    # Reading

    def test_a_topic_without_messages_has_a_position(self) -> None:
        """Which stays what it is when messages come."""
        channel = self.kept("a")
        here, other = self.enter(), self.enter()
        page = self.page(here, channel)
        assert page[2:] == (0, False, [])
        assert self.page(other, channel) == page
        known = Position(page.epoch, 0, 0)
        self.store(other, channel, b"1")
        after = self.page(here, channel, known)
        assert after[:4] == (channel, page.epoch, 1, False)
        assert [entry.body for entry in after.entries] == [b"1"]

    def test_pages(self) -> None:
        """A page has so many messages after an offset; many are read in order."""
        channel, other = self.kept("a"), self.kept("b")
        here = self.enter()
        self.store(here, channel, *(b"%d" % number for number in range(1, 301)))
        bodies = [entry.body for entry in self.history(here, channel)]
        assert bodies == [b"%d" % number for number in range(1, 301)]
        for after, limit in ((0, 1), (5, 7), (299, 5), (300, 5), (100, 300), (0, 100)):
            page = self.page(here, channel, None, after, limit)
            last = min(after + limit, 300)
            offsets = [entry.offset for entry in page.entries]
            assert offsets == list(range(after + 1, last + 1))
            assert page.top == 300
        before = len(here.of(Page))
        for number in range(200):
            here.engine.read(channel if number % 2 else other, None, number, 1)
        here.until_event(Page, before + 200)
        pages = here.of(Page)[before:]
        assert [page.channel for page in pages] == [other, channel] * 100
        firsts = [page.entries[0].offset for page in pages[1::2]]
        assert firsts == list(range(2, 202, 2))

    def test_large_messages_come_in_several_pages(self) -> None:
        """A page has little more than a mebibyte: a connection is cut whose output is
        not taken."""
        channel = self.kept("a")
        here = self.enter()
        bodies = [b"%d" % number * 400_000 for number in range(8)]
        self.store(here, channel, *bodies)
        pages, after = 0, 0
        found: list[bytes] = []
        while after < 8:
            page = self.page(here, channel, None, after)
            found += [entry.body for entry in page.entries]
            after, pages = page.entries[-1].offset, pages + 1
        assert found == bodies
        assert pages >= 2

    def test_a_position_that_fits(self) -> None:
        """With its tag, without one, and older than what is kept."""
        channel = self.kept("a")
        here = self.enter()
        for seq in range(1, 21):
            self.append(here, channel, seq, retention=Retention(5, None))
        here.until_event(Stored, 20)
        for stored in here.of(Stored):
            for place in (stored.position, stored.position._replace(tag=None)):
                page = self.page(here, channel, place, place.offset)
                assert page[1:4] == (place.epoch, 20, False)
                first = max(place.offset + 1, 16)
                offsets = [entry.offset for entry in page.entries]
                assert offsets == list(range(first, 21))

    def test_a_position_of_another_history(self) -> None:
        """It gets the history from its beginning."""
        channel = self.kept("a")
        here = self.enter()
        self.store(here, channel, b"1", b"2")
        epoch = here.of(Stored)[0].position.epoch
        strange = "0" if epoch != "0" else "1"
        for place in (
            Position(strange, 1, None),
            Position(strange, 0, 0),
            Position(strange, MAX_OFFSET, 0xFFFF),
            Position("'\r\n\ud800", 1, None),
        ):
            page = self.page(here, channel, place, place.offset)
            assert page[1:4] == (epoch, 2, True)
            assert [entry.body for entry in page.entries] == [b"1", b"2"]

    def test_a_position_that_is_not_there_changes_the_epoch(self) -> None:
        """Of the future, or with the tag of another message: the history has lost its
        end, and offsets mean others now; so all other nodes notice it as well."""
        one, two = self.enter(self.kept("a")), self.enter(self.kept("a"))
        channel = self.kept("a")
        stored = self.store(one, channel, b"1", b"2", b"3")
        place = stored[1].position
        assert place.tag is not None
        for wrong in (
            (2, place.tag ^ 1),
            (4, place.tag),
            (MAX_OFFSET, None),
            (2**70, None),
            (-1, None),
        ):
            page = self.page(one, channel, Position(place.epoch, *wrong), 2)
            assert page.reset
            assert page.epoch != place.epoch
            assert [entry.body for entry in page.entries] == [b"1", b"2", b"3"]
            other = self.page(two, channel, place, place.offset)
            assert other.reset
            assert other.epoch == page.epoch
            place = Position(page.epoch, place.offset, place.tag)
        fits = self.page(two, channel, place, place.offset)
        assert not fits.reset
        assert [entry.body for entry in fits.entries] == [b"3"]
        (stored_next,) = self.store(one, channel, b"4", start=4)
        assert stored_next.position[:2] == (place.epoch, 4)

    def test_a_history_goes_on_after_a_new_connection(self) -> None:
        """What was appended meanwhile is read, and nothing else."""
        channel = self.kept("a")
        here, other = self.enter(channel), self.enter()
        (first,) = self.store(other, channel, b"1")
        here.until_event(Delivered)
        here.close()
        self._transports.remove(here)
        self.store(other, channel, b"2", b"3", start=2)
        again = self.open(here.engine)
        again.until_event(Subscribed)
        self.store(other, channel, b"4", start=4)
        entries = self.history(again, channel, first.position)
        assert [entry.body for entry in entries] == [b"2", b"3", b"4"]
        assert [position_of(event)[1] for event in again.of(Delivered)] == [b"4"]

    # Joining

    def test_page_and_messages_join_without_a_hole(self) -> None:
        """What is appended between a subscription and the reading is in the page, or is
        delivered after it: whatever is before it is in the page."""
        choose = random.Random(7)
        writer = self.enter()
        for number in range(30):
            channel = self.kept(str(number))
            seq = 0
            for _ in range(choose.randrange(4)):
                seq += 1
                self.append(writer, channel, seq)
            here = self.enter()
            here.engine.subscribe(
                self.channels(*map(str, range(choose.choice((0, 600)))))
            )
            here.engine.subscribe([channel])
            here.engine.read(channel, None, 0, 1000)
            while not here.of(Page):
                for _ in range(choose.randrange(3)):
                    seq += 1
                    self.append(writer, channel, seq)
                self._turn()
            self.append(writer, channel, seq + 1)
            self._until_offset(here, seq + 1)
            place = here.events.index(here.of(Page)[0])
            read = [entry.offset for entry in here.of(Page)[0].entries]
            late = [e for e in here.events[place:] if isinstance(e, Delivered)]
            offsets = read + [position_of(event)[0].offset for event in late]
            assert offsets == list(range(1, seq + 2))
            self._transports.remove(here)
            here.close()

    def _until_offset(self, here: Transport, offset: int) -> None:
        def there() -> bool:
            delivered = here.of(Delivered)
            return bool(delivered) and position_of(delivered[-1])[0].offset == offset

        here.until(there)

    def test_a_reading_waits_for_its_subscription(self) -> None:
        """Also for one of thousands that are asked for at once, and without one."""
        channels = [self.kept(str(number)) for number in range(2000)]
        writer, here = self.enter(), self.enter()
        here.engine.subscribe(channels)
        for channel in (*channels[::100], self.kept("other")):
            here.engine.read(channel, None, 0, 10)
        here.engine.unsubscribe(channels[::200])
        here.until_event(Page, 21)
        assert [page.channel for page in here.of(Page)] == [
            *channels[::100],
            self.kept("other"),
        ]
        for channel in channels[::100]:
            self.append(writer, channel, 1)
        here.until_event(Delivered, 10)
        expected = [
            channel for channel in channels[::100] if channel not in channels[::200]
        ]
        assert [event.channel for event in here.of(Delivered)] == expected

    # The transport

    def test_answers_about_histories_may_be_cut_anywhere(self) -> None:
        """The events are the same, however small the pieces are."""
        channel = self.kept("a")
        self.store(self.enter(), channel, b"1\r\n", b"", b"3")
        whole = self.page(self.enter(), channel)
        for piece in (1, 2, 5):
            cut = self.enter(channel)
            cut.piece = piece
            assert _without_time(self.page(cut, channel)) == _without_time(whole)
            self.append(cut, channel, 1)
            assert cut.until_event(Stored).again

    def test_garbage_about_histories_is_a_failure_and_never_an_exception(self) -> None:
        """Whatever is answered; after `Failed` comes nothing more."""
        choose = random.Random(7)
        channel = self.kept("a")
        here = self.enter(channel)
        before = len(here.received)
        self.store(here, channel, b"1", b"2")
        self.page(here, channel)
        genuine = here.received[before:]
        for _ in range(200):
            here = self.again(here)
            here.until_event(Subscribed)
            self.append(here, channel, 1)
            self.append(here, channel, 2)
            here.engine.read(channel, None, 0, 10)
            here.engine.take_output()  # the server is not asked
            data = bytearray(genuine)
            for _ in range(choose.randrange(1, 9)):
                data[choose.randrange(len(data))] = choose.randrange(256)
            here.piece = choose.choice((0, 1, 5))
            here.feed(bytes(data))
            failed = here.of(Failed)
            assert failed in ([], here.events[-1:])

    def test_without_a_connection_no_reading_is_remembered(self) -> None:
        """Who asked for it asks again: it may need something else then."""
        channel = self.kept("a")
        engine: Engine = self.make_engine()
        engine.subscribe([channel])
        here = self.open(engine)
        here.until_event(Subscribed)
        engine.read(channel, None, 0, 10)
        engine.subscribe(self.channels(*map(str, range(2000))))
        engine.subscribe([self.kept("b")])
        engine.read(self.kept("b"), None, 0, 10)
        here = self.again(here)
        here.until_event(Subscribed)
        assert not here.of(Page)
        assert self.page(here, channel).top == 0


def _without_time(page: Page) -> Page:
    return page._replace(entries=[entry._replace(time=0.0) for entry in page.entries])
