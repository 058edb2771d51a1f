"""Golden sets: queries with judged documents, how well a version finds them, and what changed.

`files` reads and `native` writes them; `run` asks a version and `exact` a matrix of vectors;
`measures`, `overlap` and `compare` score and test; `baseline`, `observe`, `change` and `decide` set
a run beside the baseline; `power` says what a set of a size can show.
"""
