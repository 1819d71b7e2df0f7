"""Ring 1: the values of the domain. Frozen, valid from birth, free of side effects.

Objects in the store (`Cluster`, `Node`, `Network`, `Service`, `Task`) have three kinds of fields,
and one writer for each kind: the *spec* is the user's, the *desired state* is the manager's control
loops', the *status* is the agent's.
"""
