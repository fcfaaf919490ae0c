"""Data sets: one reader per layout, one `FineGrainedDataset` out."""
