"""From Fake to Real: two-step training on balanced synthetic images and biased real ones."""
