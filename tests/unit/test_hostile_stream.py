"""Events by the hundred thousand, most of them broken: each is an event or has a reason."""

from __future__ import annotations

import json
import resource
from collections import Counter

import pytest

from pipelines.core.decode import Ignored, decode
from pipelines.core.errors import BadRecordError, Reason
from pipelines.core.position import OrderBy
from pipelines.core.records import Event, Record
from pipelines.core.settings import Settings
from tests.support.hostile_stream import HostileStream

SEED = 20_261_127
SHORT, LONG = 20_000, 500_000
"""Records of each order; the long run makes it a million of both."""
_FIRST = 5_000
"""Records after which the memory must not grow any more."""
_MIB = 1 << 20


def settings_for(order_by: OrderBy) -> Settings:
    return Settings(
        kafka={"bootstrap_servers": "localhost:9092", "topics": ["t"], "order_by": order_by}
    )


def peak_mib() -> float:
    """Peak resident memory of this process, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def what_became(record: Record, settings: Settings) -> str:
    """An outcome or a reason; fails where something comes out that cannot be kept."""
    try:
        event = decode(record, settings)
    except BadRecordError as caught:
        error = caught
    else:
        if isinstance(event, Ignored):
            return "ignored"
        assert isinstance(event, Event)
        kept = [event.document_id, event.title, event.text, event.metadata]
        assert "\0" not in event.document_id + event.title + event.text
        json.dumps(kept, ensure_ascii=False, allow_nan=False).encode()
        return "deleted" if event.deleted else "event"
    assert isinstance(error.reason, Reason)
    assert 0 < len(error.message.encode()) < 2000
    return error.reason.value


@pytest.mark.acceptance
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("order_by", list(OrderBy))
def test_every_hostile_event_is_accounted_for(order_by: OrderBy, acceptance: bool) -> None:
    """No record raises anything else than a reason, what is accepted can be stored, and memory
    does not grow with their number."""
    settings = settings_for(order_by)
    count = LONG if acceptance else SHORT
    found: Counter[str] = Counter()
    before = 0.0
    for number, message in enumerate(HostileStream(SEED, order_by=order_by).take(count)):
        if number == _FIRST:
            before = peak_mib()
        record = Record("t", 0, number, 1_000 + number, message.key, message.value, message.headers)
        found[what_became(record, settings)] += 1
    assert found.total() == count
    assert count / 5 < found["event"] < count / 2, found
    # Whatever can be refused by a body of `format: json` is met on the way.
    assert len(set(found) - {"event", "deleted", "ignored"}) > 15, found
    assert peak_mib() - before < 64, found


def test_the_stream_is_the_same_for_a_seed() -> None:
    """A seed that found something finds it again."""
    first, second = (list(HostileStream(7).take(500)) for _ in range(2))
    assert first == second
    assert first != list(HostileStream(8).take(500))
