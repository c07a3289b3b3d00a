"""The controller: one loop that makes the world follow the ledger and moves only forward on evidence.

Every pass reads the state, does what is missing, and can be cut off anywhere: the next pass, of this process or of its
successor, finds the same state and goes on.
"""
