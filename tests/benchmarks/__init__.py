"""Figures that `make bench` prints: each a ratio within one run, of alternating runs, with its spread."""
