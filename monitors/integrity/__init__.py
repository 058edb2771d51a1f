"""What the integrity probe looks at, one file each: counts, known documents, chunks, vectors."""
