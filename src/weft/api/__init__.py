"""Ring 3: the Docker Engine API over HTTP, with one route table, one file per resource, and codecs
in `schema/`."""
