"""Announcements beside the solves that were read."""

from scoreboardd.builder.ledger import MEMORY_SECONDS, Ledger


def test_what_was_read_is_not_owed():
    ledger = Ledger()
    ledger.announced(2, 0)
    assert ledger.owed(0) == 2
    ledger.read(1, 0)
    assert ledger.owed(0) == 1
    ledger.read(1, 0)
    assert ledger.owed(0) == 0


def test_what_is_read_before_it_is_announced_is_never_owed():
    ledger = Ledger()
    ledger.read(3, 0)
    ledger.announced(2, 1)
    assert ledger.owed(1) == 0
    ledger.announced(2, 2)
    assert ledger.owed(2) == 1


def test_both_are_forgotten():
    ledger = Ledger()
    ledger.read(1, 0)
    ledger.announced(1, MEMORY_SECONDS)
    assert ledger.owed(MEMORY_SECONDS) == 1
    assert ledger.owed(2 * MEMORY_SECONDS) == 0


def test_the_oldest_count_first():
    ledger = Ledger()
    ledger.announced(1, 0)
    ledger.announced(5, 10)
    ledger.read(2, 11)
    assert ledger.owed(11) == 4
    assert ledger.owed(MEMORY_SECONDS) == 4
    assert ledger.owed(10 + MEMORY_SECONDS) == 0


def test_a_stream_with_a_backlog_is_never_owed():
    ledger = Ledger()
    for second in range(1000):
        ledger.read(50, second)
        ledger.announced(45 if second == 0 else 50, second + 0.3)
        assert ledger.owed(second + 0.3) == 0


def test_what_is_cleared_is_not_owed():
    ledger = Ledger()
    ledger.announced(3, 0)
    ledger.clear()
    assert ledger.owed(0) == 0
