"""Requests of the API, as functions from the state to changes. All validation and its messages are
here."""
