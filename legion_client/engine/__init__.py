"""The engine: the only process of a client with torch and gRPC. The agent starts it and speaks to it over pipes."""
