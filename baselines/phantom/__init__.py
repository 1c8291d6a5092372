"""Phantom: references as clean frames after the video, and guidance of three passes."""
