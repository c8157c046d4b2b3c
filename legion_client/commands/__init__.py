"""What `legion-client` can be told. Each function is one command; what is slow to import waits until it is needed."""
