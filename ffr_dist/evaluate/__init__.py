"""How good a classifier is for each group, how sure that is, and whether a generated set is what it should be."""
