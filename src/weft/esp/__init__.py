"""ESP packets: RFC 4303 in transport mode with AES-GCM (RFC 4106), and the state that a host must
keep to send and receive them."""
