"""The books of subscriptions: they say what libzmq holds, whatever order things come in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from inspector.sinks import _subscriptions
from inspector.sinks._subscriptions import Subscriptions
from inspector.wire.guard import Peer

WORDS = st.tuples(st.integers(0, 3), st.sampled_from([b"\0", b"\1", b"gone"]), st.binary(max_size=2))


@given(st.lists(WORDS, max_size=200))
def test_what_is_booked_is_what_is_in_force(said: list[tuple[int, bytes, bytes]]) -> None:
    books, peers = Subscriptions(), [Peer(number, number) for number in range(4)]
    topics: list[set[bytes]] = [set() for _ in peers]
    for number, what, topic in said:
        if what == b"gone":
            books.gone(peers[number])
            topics[number].clear()
            continue
        assert books.book(peers[number], what + topic) is None
        (topics[number].add if what == b"\1" else topics[number].discard)(topic)
    assert books._size == sum(len(topic) for held in topics for topic in held)


def test_number_length_and_bytes_have_bounds() -> None:
    books, peer = Subscriptions(), Peer(1, 1)
    for number in range(_subscriptions.MOST_SUBSCRIPTIONS):
        assert books.book(peer, b"\1%d" % number) is None
    assert books.book(peer, b"\1one more") == "too many subscriptions"
    books.gone(peer)
    longest = _subscriptions.LONGEST_SUBSCRIPTION
    for number in range(_subscriptions.MOST_BYTES // longest):
        assert books.book(peer, b"\1" + b"%d" % number + bytes(longest - len(b"%d" % number))) is None
    assert books.book(peer, b"\1x") == "too many subscriptions"
    books.gone(peer)
    assert books.book(peer, b"\1" + bytes(longest + 1)) == "no subscription, or too long a one"
    for nothing in (b"", b"\2", b"hello"):
        assert books.book(peer, nothing) == "no subscription, or too long a one"
