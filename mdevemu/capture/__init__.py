"""Recorded conversations: files of them, what they say, and replaying them.

``layers`` alone needs scapy; nothing else of the project does, and nothing here
is imported by the emulator.
"""
