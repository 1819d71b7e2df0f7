"""The shapes of the Docker Engine API, one file per resource: the only place that knows a JSON
field name.

Requests are decoded by msgspec into wire structs and turned into values of `weft.model`; answers
are built as literals, so that the JSON that a client sees can be read off the page. Both directions
of a resource are in the same file.
"""
