"""The replay: the outside world of flight_delay, played from the files of 2013.

It moves event time, publishes what became known, asks for a prediction one hour before each departure, and delivers
labels when flights land. The platform cannot tell it from a live feed; it knows nothing of what the platform decides.
"""
