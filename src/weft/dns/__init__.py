"""Ring 2: names. A codec for DNS messages, the names that one container may ask for, and the
answers to its questions."""
