//! Rows: the catalogue, formats, the benign generator, partitions.
