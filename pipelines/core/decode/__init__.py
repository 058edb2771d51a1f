"""From a Kafka record to the event it says: pure functions, no Beam, no Kafka client.

`decode` returns an `Event`, or `Ignored` for a record that rightly changes nothing, and raises
`BadRecordError` (a reason and a message for people) for everything else, whatever the bytes.
"""

from pipelines.core.decode.decode import decode
from pipelines.core.decode.ignored import Ignored
from pipelines.core.decode.origin import Origin, read_origin
from pipelines.core.decode.strict_json import parse_json

__all__ = ["Ignored", "Origin", "decode", "parse_json", "read_origin"]
