"""What keeps one bad destination from spoiling a run: retries, and the breaker that leaves a failing one alone."""
