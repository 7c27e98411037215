from __future__ import annotations

from agentbus.wire import Liveness, Verdict


def test_a_silent_peer_is_asked_and_then_lost() -> None:
    watch = Liveness(100.0, interval=5.0, misses=3)
    verdicts = []
    while Verdict.LOST not in verdicts:
        now = watch.next_at
        verdicts.append(watch.check(now))
    assert verdicts == [Verdict.ASK] * 3 + [Verdict.LOST]
    assert now == 120.0


def test_a_peer_that_is_heard_is_never_asked() -> None:
    watch = Liveness(0.0, interval=5.0, misses=3)
    for now in range(1, 100):
        watch.heard(float(now))
        if watch.next_at <= now:
            assert watch.check(float(now)) is Verdict.ALIVE
            assert watch.next_at == now + 5.0


def test_an_answer_forgives_what_was_missed() -> None:
    watch = Liveness(0.0, interval=1.0, misses=1)
    assert watch.check(1.0) is Verdict.ASK
    watch.heard(1.5)
    assert watch.check(2.0) is Verdict.ALIVE
    assert watch.next_at == 2.5
    assert watch.check(2.5) is Verdict.ASK
    assert watch.check(3.5) is Verdict.LOST


def test_who_slept_itself_asks_first() -> None:
    watch = Liveness(0.0, interval=1.0, misses=2)
    assert watch.check(1000.0) is Verdict.ASK
    assert watch.next_at == 1001.0
    assert watch.check(1001.0) is Verdict.ASK
    assert watch.check(1002.0) is Verdict.LOST
