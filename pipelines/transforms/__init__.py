"""The job's steps between reader and sinks: one Beam `DoFn` a file, none of them waits."""
