"""The project `slipway-services`: the platform on a cluster that is there already."""
