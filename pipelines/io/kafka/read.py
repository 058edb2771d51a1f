"""The step that reads a split, as Beam drives it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.io.iobase import RestrictionProgress
from apache_beam.io.unbounded_source import (
    _ReadFromUnboundedSourceDoFn,
    _UnboundedSourceRestriction,
    _UnboundedSourceRestrictionProvider,
    _UnboundedSourceRestrictionTracker,
)
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator

__all__ = ["ReadSplit"]


class _Tracker(_UnboundedSourceRestrictionTracker):
    """Knows of no progress: a topic has no end to be halfway to.

    Asked by a runner that would split a bundle, Beam 2.77 puts the bytes given out in the place
    of what a tracker says of its progress, and they are NaN in a bundle's first records when the
    one before had more than thirty: `OperationCounters.restart_sampling` forgets when the next
    size is due. The bundle fails over it, and on Prism the job. Progress that is not known is
    left alone, and nothing is lost: the reader splits at its checkpoints only.
    """

    def current_progress(self) -> RestrictionProgress | None:
        """None: not known."""
        return None


class _Provider(_UnboundedSourceRestrictionProvider):
    """Of such trackers."""

    def create_tracker(self, restriction: _UnboundedSourceRestriction) -> _Tracker:
        """The tracker of a restriction."""
        return _Tracker(restriction)


class ReadSplit(_ReadFromUnboundedSourceDoFn):
    """Gives out the records of one source, a bundle at a time.

    Parameters
    ----------
    max_records_per_bundle, max_read_time_seconds
        A bundle ends at whichever comes first.
    """

    # Beam finds provider and estimator in the defaults of the parameters, hence B008.
    @beam.DoFn.unbounded_per_element()
    def process(
        self,
        element: Any,
        bundle_finalizer: Any = beam.DoFn.BundleFinalizerParam,
        tracker: Any = beam.DoFn.RestrictionParam(_Provider()),  # noqa: B008
        watermark_estimator: Any = beam.DoFn.WatermarkEstimatorParam(  # noqa: B008
            ManualWatermarkEstimator.default_provider()  # noqa: B008
        ),
    ) -> Iterator[Any]:
        """Records of a bundle, at their timestamps."""
        yield from super().process(element, bundle_finalizer, tracker, watermark_estimator)
