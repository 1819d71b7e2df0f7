"""From the store's state to what one node is to run (`assignment.py`), with the networks it is on
(`views.py`), and what has changed between two such assignments (`differences.py`)."""
