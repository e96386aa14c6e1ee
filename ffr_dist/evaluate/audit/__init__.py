"""Is a generated set what was asked for? Asked before anything trains on it.

Probes for label and bias that learned from real images judge generated ones; a third one, that learned from generated images,
is judged by real ones; a fourth is asked to tell the two apart. Beside them stand distances in a feature space, copies of what
the generator learned from, and duplicates. What a perfect set would get stands beside each number.
"""
