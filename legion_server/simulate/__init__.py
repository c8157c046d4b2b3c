"""`legion-server simulate`: a run of many workers on a virtual clock and network."""
