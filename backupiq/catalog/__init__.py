"""The catalog: what every snapshot holds and what analysis found in it, for finding things. No restore needs it."""
