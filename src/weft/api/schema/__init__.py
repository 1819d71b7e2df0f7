"""The shapes of the Docker Engine API, one file per resource. No other package knows a JSON field
name.

msgspec decodes requests into wire structs, which become values of `weft.model`. Answers are built
as literals, so that the code shows the JSON that a client sees. Both directions of a resource are
in the same file.
"""
