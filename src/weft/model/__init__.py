"""Ring 1: the values of the domain. They are frozen, always valid, and without side effects.

Objects in the store (`Cluster`, `Node`, `Network`, `Service`, `Task`) have three kinds of fields,
each with one writer: users write the *spec*, the manager's control loops the *desired state*, the
agent the *status*.
"""
