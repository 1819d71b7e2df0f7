"""Ring 4: the part of a node that runs tasks: containers, their networks and their names, as the last assignment says."""
