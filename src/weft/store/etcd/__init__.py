"""The store of several managers: etcd, one member beside each of them, reached through its JSON
gateway."""
