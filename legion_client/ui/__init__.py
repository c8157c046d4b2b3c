"""The desktop app: tray, window and wizard. Everything in it but `model`, `words` and `report` needs Qt."""
