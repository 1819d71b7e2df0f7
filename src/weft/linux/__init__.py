"""Ring 3: the only package that touches the kernel's network. netlink, nftables, namespaces,
sysctls."""
