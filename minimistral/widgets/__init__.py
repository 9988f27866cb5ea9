"""Pictures, some of which move. State in plain Python, drawing apart; every picture carries its text twin."""
