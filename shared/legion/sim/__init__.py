"""The production engine on a virtual network and a virtual clock."""
