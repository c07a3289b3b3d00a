"""The portal: the page that shows what is released and why, browser login, the labels API, and the answers to the
gateway's question whether a request may pass.

It is reached through the gateway only, listens on a unix socket of this user, and changes nothing but sessions and
labels.
"""
