"""Codecs: float32 arrays to bytes and back. See `api` for the contract every one of them keeps."""
