"""Reading finished sets: index, order, ranged reads, decoding, batches."""
