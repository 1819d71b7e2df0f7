"""From the store's state to the tasks of one node (`assignment.py`) and the networks they are on
(`views.py`); and the difference between two such assignments (`differences.py`)."""
