"""No fusion break between the reader and the sinks: offsets are committed after their effects."""

from __future__ import annotations

from collections.abc import Callable

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines import ingest
from pipelines.core.job import JobSpec
from pipelines.core.settings import Settings
from tests.support.fusion import fusion_problems, in_process_stages

SETTINGS = Settings(index="docs", kafka={"topics": ["documents"]})


def build(settings: Settings = SETTINGS) -> beam.Pipeline:
    """The job's pipeline, as `run_ingest` builds it, and not run."""
    pipeline = beam.Pipeline(options=PipelineOptions(["--streaming"]))
    ingest.ingest_pipeline(pipeline, JobSpec(settings, "docs--m--000000000000"), "group")
    return pipeline


def test_reader_and_sinks_are_one_stage_on_the_in_process_runner() -> None:
    """The stage whose end commits offsets contains every step up to all sinks."""
    assert fusion_problems(in_process_stages(build())) == []


def test_one_stage_with_several_splits() -> None:
    """The number of splits brings in no redistribution."""
    settings = Settings(index="docs", kafka={"topics": ["documents"], "splits": 4})
    assert fusion_problems(in_process_stages(build(settings))) == []


class _AfterRead(beam.PTransform):
    """The reader, and something behind it that does not belong there."""

    def __init__(self, make: Callable[[], beam.PTransform], *arguments: object) -> None:
        super().__init__()
        self._read = READ(*arguments)
        self._make = make

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection:
        return begin | "Kafka" >> self._read | "Break" >> self._make()


READ = ingest.ReadFromKafka


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (beam.Reshuffle, "WriteToQdrant is not in the stage that reads"),
        (
            lambda: (
                beam.WindowInto(beam.window.FixedWindows(1))
                | beam.WithKeys(0)
                | beam.GroupByKey()
                | beam.FlatMap(lambda pair: pair[1])
            ),
            "WriteToQdrant is not in the stage that reads",
        ),
        (
            lambda: (
                beam.WithKeys(0) | beam.GroupIntoBatches(2) | beam.FlatMap(lambda pair: pair[1])
            ),
            "may hold elements back",
        ),
        (lambda: beam.Map(lambda record: record), None),
    ],
    ids=["Reshuffle", "GroupByKey", "state", "none"],
)
def test_the_check_finds_a_break(
    make: Callable[[], beam.PTransform], found: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A redistribution or state behind the reader is reported; another step is not."""

    def broken(*arguments: object, **_: object) -> beam.PTransform:
        return _AfterRead(make, *arguments)

    monkeypatch.setattr(ingest, "ReadFromKafka", broken)
    problems = fusion_problems(in_process_stages(build()))
    if found is None:
        assert problems == []
    else:
        assert any(found in problem for problem in problems), problems


def test_the_check_finds_a_break_before_one_sink(monkeypatch: pytest.MonkeyPatch) -> None:
    """A redistribution inside the dead letters' sink alone is reported too."""
    write = ingest.WriteDeadLetters

    class Reshuffled(beam.PTransform):
        def __init__(self, settings: Settings) -> None:
            super().__init__()
            self._write = write(settings)

        def expand(self, letters: beam.PCollection) -> object:
            return letters | beam.Reshuffle() | self._write

    monkeypatch.setattr(ingest, "WriteDeadLetters", Reshuffled)
    problems = fusion_problems(in_process_stages(build()))
    assert any(problem.startswith("WriteDeadLettersOfDecode/") for problem in problems), problems
