"""`python -m slipway`: the command line where no script of its name is installed, as in the platform's image."""

from slipway.cli import main

main()
