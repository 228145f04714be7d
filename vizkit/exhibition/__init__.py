"""The gallery: every technique with its pictures, formulas, commands and calls, as a folder of pages."""
