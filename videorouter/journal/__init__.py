"""The records of every item and every sending: states, money, files. The only SQL."""
