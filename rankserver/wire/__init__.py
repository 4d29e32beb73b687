"""What server and client share: the protocol, as pure functions and values."""
