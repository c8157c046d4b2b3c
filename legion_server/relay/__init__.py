"""A relay: joins callers to workers behind NAT by the name in their ClientHello, and holds no worker's key."""
