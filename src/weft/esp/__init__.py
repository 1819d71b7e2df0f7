"""ESP packets: RFC 4303 in transport mode with AES-GCM (RFC 4106), and what a host that sends and
receives them must remember."""
