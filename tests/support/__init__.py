"""Helpers that several test modules share.

Every helper waits for something to happen, for at most ``waiting.BOUND`` seconds; none of them sleeps.
"""
