"""The demonstration: the whole loop on real flights, in five acts, with a report in which every number is measured.

It is a user of the platform like any other: it acts through the command line, the gateway and the ledger's public
functions, and takes no part in any decision of the loop.
"""
