"""Pages that stand by themselves: one HTML file, nothing fetched."""
