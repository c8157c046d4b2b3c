"""Workers on an emulated wide-area network, for `wan_round.py`."""
