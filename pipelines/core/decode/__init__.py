"""From a Kafka record to the event it says: pure functions, no Beam, no Kafka client.

`decode` returns an `Event`, or `Ignored` for a record that rightly changes nothing, and raises
`BadRecordError` (a reason and a message for people) for everything else, whatever the bytes.
"""

from pipelines.core.decode.decode import decode
from pipelines.core.decode.ignored import Ignored
from pipelines.core.decode.origin import (
    Origin,
    origin_headers,
    origin_of,
    read_origin,
    without_origin_headers,
)
from pipelines.core.decode.strict_json import parse_json

__all__ = [
    "Ignored",
    "Origin",
    "decode",
    "origin_headers",
    "origin_of",
    "parse_json",
    "read_origin",
    "without_origin_headers",
]
