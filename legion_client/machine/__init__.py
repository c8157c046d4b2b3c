"""What can be read from this machine; nothing here decides anything."""
