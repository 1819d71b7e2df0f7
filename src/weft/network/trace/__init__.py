"""Traces one packet through kernel states, planned or real, by interpreting the rules hop by
hop."""
