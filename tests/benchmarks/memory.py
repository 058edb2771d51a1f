"""Whether memory grows with the number of events: the peak of the job's own process."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks.bench import CONTRACT
from tests.benchmarks.table import Table
from tests.support.brokers import Broker, Message, any_broker
from tests.support.jobs import ENVIRONMENT, write_config
from tests.support.qdrant_server import qdrant_url

NEEDS = ()

_DOCUMENTS = 2000
_EVENTS = (5_000, 50_000)
# Most events only move or change metadata: what is measured is the job's memory, not the encoder's
# patience.
_NEW_TEXTS = 0.05

_JOB = """
import json, re, sys, threading
from pathlib import Path
from pipelines.core.accounting import ACCOUNT
from pipelines.core.settings import load_settings
from pipelines.ingest import run_ingest

peaks = {}

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

def watch():
    while not done.wait(0.05):
        if ACCOUNT.counts().accounted >= 1_000:
            peaks.setdefault("early", peak())

done = threading.Event()
threading.Thread(target=watch, daemon=True).start()
result = run_ingest(load_settings(Path(sys.argv[1])), until_caught_up=True, create=True)
done.set()
print(json.dumps({"peak": peak(), **peaks, "consumed": result.counts.consumed}))
"""


def run() -> Table:
    """Peak resident memory of the job for few and for ten times as many events."""
    table = Table(
        "Peak memory of the job while the number of events grows tenfold",
        ["events", "after 1,000 (MiB)", "at the end (MiB)", "grown by"],
        notes=[
            f"The same {_DOCUMENTS} documents over and over, short texts, the store in a process",
            "of its own; a process for each row, torch and the model included in its memory.",
        ],
    )
    with any_broker() as broker, tempfile.TemporaryDirectory() as folder, qdrant_url() as url:
        table.notes.append(f"Events come from {broker.name}.")
        ends = []
        for events in _EVENTS:
            found = _measure(broker, events, url, Path(folder))
            assert found["consumed"] == events, found
            ends.append(found["peak"])
            grown = f"{found['peak'] - found['early']:+.0f}"
            cells = [f"{found['early']:.0f}", f"{found['peak']:.0f}", grown]
            table.rows.append([f"{events:,}", *cells])
        table.rows.append(["ratio", "", f"{ends[1] / ends[0]:.2f}", ""])
    return table


def _measure(broker: Broker, events: int, url: str, folder: Path) -> dict[str, Any]:
    topic = f"memory-{events}"
    broker.create_topic(topic)
    broker.send(topic, _messages(events))
    values = {
        "index": topic,
        "kafka": {**broker.kafka, "topics": [topic]},
        "qdrant": {"url": url},
        "contract": CONTRACT,
        "runtime": {"device": "cpu", "threads": 1},
        "metrics": {"port": None},
        "log_level": "error",
    }
    config = write_config(folder / f"{topic}.yaml", values)
    done = subprocess.run(
        [sys.executable, "-c", _JOB, str(config)],
        stdout=subprocess.PIPE,
        env={**os.environ, **ENVIRONMENT},
        check=True,
        text=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _messages(events: int) -> list[Message]:
    chance = random.Random(7)
    texts = [f"document number {number} as it was at first" for number in range(_DOCUMENTS)]
    found = []
    for number in range(events):
        document = chance.randrange(_DOCUMENTS)
        if chance.random() < _NEW_TEXTS:
            texts[document] = f"document number {document} as event {number} left it"
        body = {"id": f"d{document}", "text": texts[document], "metadata": {"event": number}}
        found.append(
            Message(f"d{document}".encode(), json.dumps(body).encode(), 1_750_000_000_000 + number)
        )
    return found
