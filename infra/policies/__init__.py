"""The policy pack: what every object of the platform must keep to, one function for each rule."""
