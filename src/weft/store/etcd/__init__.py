"""The store of several managers: etcd, with one member beside each manager, reached through its
JSON gateway."""
