"""Ring 3: the Docker Engine API over HTTP. One route table, one file per resource, codecs in
`schema/`."""
