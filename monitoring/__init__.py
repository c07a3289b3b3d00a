"""Monitors: what the inference log and the labels say about the version that answers, window by window.

    windows       which spans of event time are examined, and when they are due
    performance   our own statistics on judged predictions
    drift         input and prediction drift against the champion's training rows (Evidently)
    quality       missing values, fallbacks, duplicates, volume, unheard-of values (Evidently)
    skew          features that were online against the offline join for the same rows
    freshness     age of the features that were used, and whether labels still arrive
    reports       the Evidently workspace that the reports page shows
    examination   one window: examine, report, store, alarm
    watch         the resident loop

A monitor decides nothing: it stores what it found in the ledger, and the controller acts on that.
"""
