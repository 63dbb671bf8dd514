"""Bank × images → anomaly maps, scores and verdicts (Algorithm 2), and how good they are."""
