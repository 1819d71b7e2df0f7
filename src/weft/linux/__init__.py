"""Adapter to the kernel's network, and the only package that touches it: netlink, nftables,
namespaces, sysctls."""
