"""Painting with a network: one loop that moves a canvas until an objective is as high as it gets."""
