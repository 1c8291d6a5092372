"""MAGREF: references on one white canvas as the first frame, with a mask of where they are."""
