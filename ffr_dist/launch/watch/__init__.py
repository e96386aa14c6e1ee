"""What a run shows of itself: states, rates, money, a log of events, metrics; and nothing of it a secret."""
