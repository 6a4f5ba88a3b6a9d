"""Results of a run: tables, plots and one HTML page."""
