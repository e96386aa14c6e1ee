"""The study: a grid of cells over one pool, checked, trained as a graph of stages, and told in one table."""
